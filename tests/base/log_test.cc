#include "src/base/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace tutti {
namespace {

std::string read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(Log, WritesWhatItsLevelAdmitsToTheExpandedPath) {
  char host[256];
  ASSERT_EQ(gethostname(host, sizeof(host)), 0);
  const std::string path =
      testing::TempDir() + "log." + host + "." + std::to_string(getpid()) + ".%.txt";
  std::filesystem::remove(path);
  Result<Log> log = Log::open(LogLevel::info, testing::TempDir() + "log.%h.%p.%%.txt", 3);
  ASSERT_TRUE(log.ok()) << log.status().to_string();
  EXPECT_TRUE(log->on(LogLevel::warn) && log->on(LogLevel::info));
  EXPECT_FALSE(log->on(LogLevel::trace));
  log->write(LogLevel::warn, "one");
  log->write(LogLevel::trace, "never");
  log->write(LogLevel::info, "two");
  const std::string who = std::string(host) + ":" + std::to_string(getpid()) + ":rank 3 ";
  EXPECT_EQ(read(path), who + "[warn] one\n" + who + "[info] two\n");
  std::filesystem::remove(path);
}

TEST(Log, IsQuietByDefaultAndCreatesNoFile) {
  const std::string path = testing::TempDir() + "quiet.txt";
  Result<Log> log = Log::open(LogLevel::quiet, path, 0);
  ASSERT_TRUE(log.ok());
  log->write(LogLevel::warn, "nothing");
  EXPECT_FALSE(log->on(LogLevel::warn));
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Log, NamesTheFileThatCannotBeOpened) {
  Result<Log> log = Log::open(LogLevel::warn, "/nonexistent/folder/log", 0);
  ASSERT_FALSE(log.ok());
  EXPECT_EQ(log.status().code(), Code::system_error);
  EXPECT_NE(log.status().message().find("/nonexistent/folder/log"), std::string::npos);
}

TEST(Log, LevelsAreSpelledAsInTheEnvironment) {
  EXPECT_EQ(*parse_log_level(""), LogLevel::quiet);
  EXPECT_EQ(*parse_log_level("WARN"), LogLevel::warn);
  EXPECT_EQ(*parse_log_level("TRACE"), LogLevel::trace);
  EXPECT_FALSE(parse_log_level("LOUD").ok());
}

}  // namespace
}  // namespace tutti
