// SPDX-License-Identifier: Apache-2.0
#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "server/option_text.h"

namespace attnd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ParsedOptions Parse(const std::vector<std::string>& flags) {
  std::vector<const char*> argv = {"attnd"};
  for (const std::string& flag : flags) argv.push_back(flag.c_str());
  return ParseOptions(static_cast<int>(argv.size()), argv.data());
}

class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text)
      : path_((std::filesystem::temp_directory_path() /
               ("attnd-options-test-" + std::to_string(getpid())))
                  .string()) {
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(OptionsTest, DefaultsAreValid) {
  const ParsedOptions parsed = Parse({});
  EXPECT_EQ(parsed.exit_code, -1) << parsed.message;
  EXPECT_TRUE(Options().Validate().ok()) << Options().Validate();
  EXPECT_EQ(parsed.options.ToString(), Options().ToString());
}

TEST(OptionsTest, FlagsFillTheStruct) {
  const ParsedOptions parsed =
      Parse({"--listen", "unix:/tmp/a", "--listen=[::1]:0", "--pool_bytes=3MiB", "--num_threads",
             "2", "--max_linger=50us", "--no_reflection", "--metrics_listen=", "--backend=hip",
             "--hip_plugin=/opt/p.so", "--gpu_memory_fraction=0.5", "--exit_with_stdin"});
  ASSERT_EQ(parsed.exit_code, -1) << parsed.message;
  EXPECT_THAT(parsed.options.listen, ElementsAre("unix:/tmp/a", "[::1]:0"));
  EXPECT_EQ(parsed.options.pool_bytes, Bytes(3u << 20));
  EXPECT_EQ(parsed.options.num_threads, 2);
  EXPECT_EQ(parsed.options.max_linger, std::chrono::microseconds(50));
  EXPECT_FALSE(parsed.options.reflection);
  EXPECT_EQ(parsed.options.metrics_listen, "");
  EXPECT_EQ(parsed.options.backend, "hip");
  EXPECT_EQ(parsed.options.hip_plugin, "/opt/p.so");
  EXPECT_EQ(parsed.options.gpu_memory_fraction, 0.5);
  EXPECT_TRUE(parsed.options.exit_with_stdin);
}

TEST(OptionsTest, TheLastOfARepeatedFlagWins) {
  EXPECT_EQ(Parse({"--num_threads=2", "--num_threads=5"}).options.num_threads, 5);
}

TEST(OptionsTest, WhatIsPrintedIsAConfigFileForTheSame) {
  const ParsedOptions first =
      Parse({"--listen=unix:/tmp/a", "--listen=127.0.0.1:0", "--default_lease=90s",
             "--no_reflection", "--log_level=debug"});
  ASSERT_EQ(first.exit_code, -1) << first.message;
  const ConfigFile file(first.options.ToString());
  const ParsedOptions second = Parse({"--config", file.path()});
  ASSERT_EQ(second.exit_code, -1) << second.message;
  EXPECT_EQ(second.options.ToString(), first.options.ToString());
}

TEST(OptionsTest, FlagsWinOverTheConfigFile) {
  const ConfigFile file("num_threads = 3\npool_bytes = 8MiB\n");
  const ParsedOptions parsed = Parse({"--config", file.path(), "--num_threads=4"});
  ASSERT_EQ(parsed.exit_code, -1) << parsed.message;
  EXPECT_EQ(parsed.options.num_threads, 4);
  EXPECT_EQ(parsed.options.pool_bytes, Bytes(8u << 20));
}

TEST(OptionsTest, ErrorsNameTheFlagTheValueAndWhatIsAllowed) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--pool_bytes=1"}, "--pool_bytes 1: expected 2MiB to 64TiB, or 0"},
      {{"--gpu_memory_fraction=1"}, "--gpu_memory_fraction 1: expected 0.05 to 0.98"},
      {{"--gpu_memory_fraction=0"}, "--gpu_memory_fraction 0: expected 0.05 to 0.98"},
      {{"--gpu_memory_fraction=nan"}, "--gpu_memory_fraction nan: expected 0.05 to 0.98"},
      {{"--gpu_memory_fraction=90%"}, "\"90%\" is not a number"},
      {{"--pool_bytes=lots"}, "\"lots\" is not a size"},
      {{"--max_linger=-1s"}, "\"-1s\" is not a time"},
      {{"--num_threads=99999"}, "--num_threads 99999: expected 0 to 1024"},
      {{"--backend=gpu"}, "--backend \"gpu\": expected one of auto, cpu, hip"},
      {{"--lisen=unix:/a"}, "did you mean --listen?"},
      {{"--zzzzzzzzzzzz"}, "unknown option --zzzzzzzzzzzz; --help lists them all"},
      {{"serve"}, "unexpected argument \"serve\""},
      {{"--default_lease=48h"}, "--default_lease 48h: exceeds --max_lease 24h"},
      {{"--metrics_listen=0.0.0.0:1"}, "--metrics_listen"},
      {{"--listen="}, "--listen"}};
  for (const auto& [flags, message] : cases) {
    const ParsedOptions parsed = Parse(flags);
    EXPECT_EQ(parsed.exit_code, kExitUsage) << flags[0];
    EXPECT_THAT(parsed.message, HasSubstr(message));
  }
}

TEST(OptionsTest, MisspeltNamesInTheConfigFileAreErrors) {
  const ConfigFile file("num_thread = 3\n");
  const ParsedOptions parsed = Parse({"--config", file.path()});
  EXPECT_EQ(parsed.exit_code, kExitUsage);
  EXPECT_THAT(parsed.message, HasSubstr("did you mean --num_threads?"));
  EXPECT_EQ(Parse({"--config=/nonexistent/file"}).exit_code, kExitUsage);
}

TEST(OptionsTest, HelpVersionAndCheckConfigExitWithZero) {
  const ParsedOptions help = Parse({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* name : {"--listen", "--pool_bytes", "--max_queued_tokens", "--log_level"}) {
    EXPECT_THAT(help.message, HasSubstr(name));
  }
  EXPECT_EQ(Parse({"--version"}).message, std::string("attnd ") + Version() + "\n");
  const ParsedOptions check = Parse({"--check_config", "--num_threads=7"});
  EXPECT_EQ(check.exit_code, 0);
  EXPECT_THAT(check.message, HasSubstr("num_threads = 7\n"));
  const ParsedOptions metrics = Parse({"--print_metrics"});
  EXPECT_EQ(metrics.exit_code, 0);
  EXPECT_THAT(metrics.message, HasSubstr("{\"name\": \"attnd_pages\", \"type\": \"gauge\""));
}

TEST(OptionsTest, TheMessageLimitHoldsThreeOfTheLargestTensors) {
  Options options;
  EXPECT_GT(options.max_message_bytes().value(), 3 * options.max_tensor_bytes.value());
  options.max_tensor_bytes = Bytes(512u << 20);
  EXPECT_LT(options.max_message_bytes().value(), uint64_t{1} << 31);  // gRPC's own bound
}

TEST(OptionsTest, ThePoolIsAFractionOfAGpuUnlessItIsGiven) {
  constexpr uint64_t kGiB = uint64_t{1} << 30, kSuperblock = 2u << 20;
  Options options;
  EXPECT_EQ(options.PoolBytes(Bytes(256 * kGiB), /*host=*/true), Bytes(kGiB));
  const uint64_t bytes = options.PoolBytes(Bytes(24 * kGiB), /*host=*/false).value();
  EXPECT_EQ(bytes % kSuperblock, 0u);
  EXPECT_NEAR(static_cast<double>(bytes), 0.9 * 24 * kGiB, kSuperblock);
  options.gpu_memory_fraction = 0.25;
  EXPECT_EQ(options.PoolBytes(Bytes(24 * kGiB), /*host=*/false), Bytes(6 * kGiB));
  options.pool_bytes = Bytes(7 * kSuperblock + 1);
  EXPECT_EQ(options.PoolBytes(Bytes(24 * kGiB), /*host=*/false), Bytes(7 * kSuperblock));
  EXPECT_EQ(options.PoolBytes(Bytes(24 * kGiB), /*host=*/true), Bytes(7 * kSuperblock));
}

TEST(OptionTextTest, ReadsSizes) {
  EXPECT_EQ(ParseBytes("0"), Bytes(0));
  EXPECT_EQ(ParseBytes("17"), Bytes(17));
  EXPECT_EQ(ParseBytes("17B"), Bytes(17));
  EXPECT_EQ(ParseBytes("2k"), Bytes(2048));
  EXPECT_EQ(ParseBytes("2 MiB"), Bytes(2u << 20));
  EXPECT_EQ(ParseBytes("1.5GiB"), Bytes(3u << 29));
  EXPECT_EQ(ParseBytes("16TB"), Bytes(uint64_t{16} << 40));
  for (const char* text : {"", "B", "-1", "1.2.3", "1e9", "1x", "MiB", "99999999999TiB", "nan"}) {
    EXPECT_EQ(ParseBytes(text), std::nullopt) << text;
  }
  EXPECT_EQ(FormatBytes(Bytes(1u << 30)), "1GiB");
  EXPECT_EQ(FormatBytes(Bytes(1000)), "1000");
  EXPECT_EQ(FormatBytes(Bytes(0)), "0");
}

}  // namespace
}  // namespace attnd
