// The arrows of docs/design.md, read off the #include lines: rooms only look down.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Room {
  std::string folder;            // longest matching folder wins
  std::vector<std::string> may;  // rooms it may include, besides itself and the public headers
};

// The drawing in docs/design.md, as data.
const std::vector<Room>& rooms() {
  static const std::vector<Room> k_rooms = {
      {"src/base", {}},
      {"src/plan", {"src/base"}},
      {"topology", {"src/base"}},
      {"src/cost", {"topology", "src/base"}},
      {"src/algorithms", {"src/plan", "src/cost", "src/base"}},
      {"sim", {"src/plan", "src/cost", "topology", "src/base"}},
      {"src/planner", {"sim", "src/algorithms", "src/plan", "src/cost", "topology", "src/base"}},
      {"kernels", {"src/base"}},
      {"transports", {"src/base", "kernels"}},
      {"src/executor", {"src/plan", "transports", "kernels", "src/base"}},
      {"src/cuda", {"src/executor", "src/plan", "kernels", "src/base"}},
      {"src/communicator/bootstrap", {"src/base"}},
      {"src/communicator",
       {"src/communicator/bootstrap", "src/planner", "src/cuda", "src/cost", "src/executor",
        "src/algorithms", "src/plan", "topology", "transports", "kernels", "src/base"}},
      {"src/nccl", {"src/communicator", "src/cuda", "transports", "src/base", "include"}},
      {"perf",
       {"src/communicator", "src/communicator/bootstrap", "src/planner", "src/cuda", "src/executor",
        "sim", "src/algorithms", "src/plan", "src/cost", "topology", "transports", "kernels",
        "src/base", "include"}},
      {"bindings/python/src", {}},
      {"include", {}},
      {"include/tutti", {}},
  };
  return k_rooms;
}

const Room* room_of(const std::string& path) {
  const Room* best = nullptr;
  for (const Room& room : rooms())
    if (path.rfind(room.folder + "/", 0) == 0 &&
        (best == nullptr || room.folder.size() > best->folder.size()))
      best = &room;
  return best;
}

std::vector<std::string> includes_of(const fs::path& file) {
  static const std::regex k_include("^\\s*#\\s*include\\s+\"([^\"]+)\"");
  std::vector<std::string> found;
  std::ifstream in(file);
  std::smatch match;
  for (std::string line; std::getline(in, line);)
    if (std::regex_search(line, match, k_include)) found.push_back(match[1]);
  return found;
}

std::vector<fs::path> sources() {
  std::vector<fs::path> files;
  const fs::path root(TUTTI_SOURCE_DIR);
  for (const char* top :
       {"src", "kernels", "transports", "topology", "sim", "perf", "bindings", "include"})
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string extension = entry.path().extension();
      if (extension == ".h" || extension == ".cc" || extension == ".cu" || extension == ".cuh")
        files.push_back(entry.path());
    }
  return files;
}

TEST(Arrows, PointOnlyDown) {
  const fs::path root(TUTTI_SOURCE_DIR);
  size_t checked = 0;
  for (const fs::path& file : sources()) {
    const std::string path = fs::relative(file, root);
    const Room* from = room_of(path);
    ASSERT_NE(from, nullptr) << path << " is in no room";
    for (const std::string& include : includes_of(file)) {
      if (include.rfind("tutti/", 0) == 0 || include.rfind("hwy/", 0) == 0) continue;
      ++checked;
      const bool c_header = include == "nccl.h" || include == "nccl_device.h";
      const Room* to = room_of(c_header ? "include/" + include : include);
      ASSERT_NE(to, nullptr) << path << " includes \"" << include
                             << "\": includes are written from the root of the repository";
      if (to == from) continue;
      EXPECT_TRUE(std::count(from->may.begin(), from->may.end(), to->folder))
          << path << " includes " << include << ": " << from->folder << " may not look at "
          << to->folder;
    }
  }
  EXPECT_GT(checked, 100u) << "the test found next to nothing to check";
}

// One file reads the environment of the library; the command-line tools may as well.
TEST(Environment, IsReadInOnePlace) {
  const fs::path root(TUTTI_SOURCE_DIR);
  const std::regex reads("\\b(secure_)?getenv\\s*\\(");
  for (const fs::path& file : sources()) {
    const std::string path = fs::relative(file, root);
    if (path.rfind("perf/", 0) == 0) continue;
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);)
      if (std::regex_search(line, reads) && line.find("//") > line.find("getenv")) {
        EXPECT_EQ(path, "src/communicator/config.cc") << line;
      }
  }
}

// The library neither prints nor ends the process.
TEST(Library, NeitherPrintsNorAborts) {
  const fs::path root(TUTTI_SOURCE_DIR);
  const std::regex bad(
      "\\b(printf|puts|abort|exit|_exit|quick_exit|terminate)\\s*\\(|std::c(out|err)\\b");
  const std::regex fine("::abort\\(|\\.abort\\(|->abort\\(|void abort\\(|fmt::|snprintf");
  for (const fs::path& file : sources()) {
    const std::string path = fs::relative(file, root);
    if (path.rfind("perf/", 0) == 0 || path.rfind("kernels/ladder", 0) == 0) continue;
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) {
      const std::string code = line.substr(0, line.find("//"));
      if (std::regex_search(code, bad) && !std::regex_search(code, fine))
        ADD_FAILURE() << path << ": " << line;
    }
  }
}

}  // namespace
