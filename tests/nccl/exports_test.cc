// What the library exports: the table, all of it, weak and strong; and what a real NCCL exports.
#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>

#include "src/nccl/names.h"
#include "tests/nccl/shell.h"

namespace tutti::nccl_test {
namespace {

namespace fs = std::filesystem;

struct Name {
  const char* name;
  int since;
};
constexpr Name k_names[] = {
#define TUTTI_NAME(name, since) {#name, since},
    TUTTI_NCCL_NAMES(TUTTI_NAME)
#undef TUTTI_NAME
};

// Defined dynamic symbols of a library and whether they are weak.
std::map<std::string, bool> exports_of(const std::string& path) {
  std::map<std::string, bool> found;
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr head{};
  if (!file.read(reinterpret_cast<char*>(&head), sizeof head)) return found;
  std::vector<Elf64_Shdr> sections(head.e_shnum);
  file.seekg(static_cast<std::streamoff>(head.e_shoff));
  file.read(reinterpret_cast<char*>(sections.data()),
            static_cast<std::streamsize>(sections.size() * sizeof(Elf64_Shdr)));
  auto content = [&](const Elf64_Shdr& section) {
    std::vector<char> bytes(section.sh_size);
    file.seekg(static_cast<std::streamoff>(section.sh_offset));
    file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return bytes;
  };
  for (const Elf64_Shdr& section : sections) {
    if (section.sh_type != SHT_DYNSYM) continue;
    const std::vector<char> symbols = content(section), names = content(sections[section.sh_link]);
    for (size_t at = 0; at + sizeof(Elf64_Sym) <= symbols.size(); at += sizeof(Elf64_Sym)) {
      Elf64_Sym symbol;
      std::memcpy(&symbol, symbols.data() + at, sizeof symbol);
      if (symbol.st_shndx != SHN_UNDEF && symbol.st_name != 0)
        found[names.data() + symbol.st_name] = ELF64_ST_BIND(symbol.st_info) == STB_WEAK;
    }
  }
  return found;
}

TEST(Exports, AreTheTableAndNothingElse) {
  std::map<std::string, bool> expected{{"ncclResetDebugInitInternal", false}};
  for (const Name& n : k_names) {
    expected[std::string("nccl") + n.name] = true;
    expected[std::string("pnccl") + n.name] = false;
  }
  EXPECT_EQ(exports_of(k_library), expected);
}

// Every name is declared in a public header, and every declared one is in the table.
TEST(Exports, AreDeclared) {
  std::set<std::string> declared;
  for (const char* header : {"nccl.h", "nccl_device.h"}) {
    std::ifstream file(std::string(TUTTI_SOURCE_DIR) + "/include/" + header);
    const std::string text(std::istreambuf_iterator<char>(file), {});
    const std::regex call("\\n[A-Za-z_0-9 *]+[ *](p?nccl[A-Za-z0-9]+)\\(");
    for (std::sregex_iterator it(text.begin(), text.end(), call), end; it != end; ++it)
      declared.insert((*it)[1]);
  }
  std::set<std::string> expected;
  for (const Name& n : k_names) {
    expected.insert(std::string("nccl") + n.name);
    expected.insert(std::string("pnccl") + n.name);
  }
  EXPECT_EQ(declared, expected);
}

// Real libraries: of a CUDA toolkit, and those that TUTTI_TEST_REAL_NCCL names ("a.so:b.so").
std::vector<std::string> real_libraries() {
  std::vector<std::string> found;
  if (const char* named = std::getenv("TUTTI_TEST_REAL_NCCL")) {
    std::stringstream list(named);
    for (std::string path; std::getline(list, path, ':');) found.push_back(path);
  }
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/usr/local", ignored))
    for (const char* folder : {"lib", "lib64", "targets/x86_64-linux/lib"}) {
      const fs::path path = entry.path() / folder / "libnccl.so.2";
      if (entry.path().filename().string().starts_with("cuda") && fs::exists(path))
        found.push_back(path);
    }
  return found;
}

TEST(Exports, AreThoseOfARealLibraryOfItsVersion) {
  const std::vector<std::string> libraries = real_libraries();
  if (libraries.empty()) GTEST_SKIP() << "no libnccl.so.2 of NVIDIA here";
  for (const std::string& path : libraries) {
    const Outcome version = shell(k_bin + "nccl_path_client " + path);
    ASSERT_EQ(version.code, 0) << version.text;
    const int code = std::stoi(version.text);
    std::set<std::string> real, ours;
    for (const auto& [name, weak] : exports_of(path))
      if (name.starts_with("nccl") || name.starts_with("pnccl")) real.insert(name);
    for (const Name& n : k_names)
      if (n.since != 0 && n.since <= code) {
        ours.insert(std::string("nccl") + n.name);
        ours.insert(std::string("pnccl") + n.name);
      }
    ours.insert("ncclResetDebugInitInternal");
    EXPECT_EQ(real, ours) << path << " (" << code << ")";
  }
}

// It loads wherever the C and C++ libraries are.
TEST(Exports, NeedNothingButTheCAndCppLibraries) {
  const std::regex needed("\\(NEEDED\\).*\\[(.*)\\]");
  const std::regex standard(
      "(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\\+\\+|ld-linux.*|lib[atlu]*san)"
      "\\.so\\.[0-9]+");
  for (const char* name : {"libnccl.so.2", "libtutti.so", "libtutti_nccl_audit.so"}) {
    const Outcome outcome = shell("readelf -dW " + std::string(TUTTI_BINARY_DIR) + "/lib/" + name);
    ASSERT_EQ(outcome.code, 0) << outcome.text;
    size_t found = 0;
    for (std::sregex_iterator it(outcome.text.begin(), outcome.text.end(), needed), end; it != end;
         ++it, ++found)
      EXPECT_TRUE(std::regex_match((*it)[1].str(), standard)) << name << " needs " << (*it)[1];
    EXPECT_GT(found, 0u) << outcome.text;
  }
  const Outcome ours = shell("readelf -dW " + k_library);
  for (const char* good : {"SONAME", "[libnccl.so.2]", "NODELETE", "NOW"})
    EXPECT_NE(ours.text.find(good), std::string::npos) << good;
}

}  // namespace
}  // namespace tutti::nccl_test
