// SPDX-License-Identifier: Apache-2.0
#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "server/base/option_text.h"

namespace attnd {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

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
  const std::pair<std::string, std::string> cases[] = {
      {"num_thread = 3", "unknown option \"num_thread\"; did you mean num_threads?"},
      {"Pool-Bytes = 3MiB", "unknown option \"Pool-Bytes\"; did you mean pool_bytes?"},
      {"--listen = localhost:1", "unknown option \"--listen\"; did you mean listen?"},
      {"no_reflection = true", "unknown option \"no_reflection\"; expected reflection = false"},
      {"zzzzzzzzzzzz = 1", "unknown option \"zzzzzzzzzzzz\"; `attnd --print_config` lists them"},
      {"config = other.conf", "\"config\" is for the command line alone"},
      {"\xff = 1", "unknown option"}};
  for (const auto& [line, message] : cases) {
    const ConfigFile file("# one\n" + line + "\n");
    const ParsedOptions parsed = Parse({"--config", file.path()});
    EXPECT_EQ(parsed.exit_code, kExitUsage) << line;
    EXPECT_THAT(parsed.message, StartsWith("attnd: " + file.path() + ":2: " + message));
  }
}

// The names of all options, in their order.
std::vector<std::string> OptionNames() {
  std::vector<std::string> names;
  std::istringstream lines(Options().ToString());
  for (std::string line; std::getline(lines, line);)
    names.push_back(line.substr(0, line.find(' ')));
  return names;
}

// Of each option a value that it does not take, as a config file has it, and what is said of it.
const std::pair<std::string, std::pair<std::string, std::string>> kMalformed[] = {
    {"listen", {"[]", "expected at least one"}},
    {"listen", {"7450", "expected \"host:port\" or \"unix:/path\""}},
    {"listen", {"[\"localhost:0\", \"localhost:99999\"]", "expected 0 to 65535"}},
    {"listen", {"0.0.0.0:0", "is not a loopback address"}},
    {"insecure", {"maybe", "\"maybe\": expected true or false"}},
    {"insecure_metrics", {"True", "\"True\": expected true or false"}},
    {"tls_cert", {"/tmp/c.pem", "needs --tls_key, too"}},
    {"tls_key", {"/tmp/k.pem", "needs --tls_cert, too"}},
    {"tls_client_ca", {"/tmp/ca.pem", "needs --tls_cert, too"}},
    {"tenants_file", {"[a.yaml, b.yaml]", "a list, expected one value"}},
    {"metrics_listen", {"[\"localhost:0\"]", "a list, expected one value"}},
    {"metrics_listen", {"unix:/tmp/m", "served on \"host:port\" only"}},
    {"ready_file", {"[a, b]", "[\"a\", \"b\"]: a list, expected one value"}},
    {"reflection", {"1", "\"1\": expected true or false"}},
    {"reflection", {"[true]", "a list, expected true or false"}},
    {"backend", {"gpu", "\"gpu\": expected one of auto, cpu, hip"}},
    {"hip_plugin", {"[\"a.so\"]", "a list, expected one value"}},
    {"num_threads", {"many", "\"many\": not a whole number, expected 0 to 1024"}},
    {"num_threads", {"1.5", "\"1.5\": not a whole number"}},
    {"num_threads", {"1025", "\"1025\": expected 0 to 1024"}},
    {"num_threads", {"99999999999999999999", "not a whole number"}},
    {"num_threads", {"\"\"", "\"\": not a whole number"}},
    {"gpu_memory_fraction", {"90%", "\"90%\": not a number, expected 0.05 to 0.98"}},
    {"gpu_memory_fraction", {"nan", "\"nan\": expected 0.05 to 0.98"}},
    {"pool_bytes", {"1MiB", "\"1MiB\": expected 2MiB to 64TiB, or 0"}},
    {"pool_bytes", {"-1GiB", "not a size (as in 512MiB), expected 2MiB to 64TiB, or 0"}},
    {"pool_bytes", {"[1GiB]", "a list, expected a size (as in 512MiB)"}},
    {"max_staging_bytes", {"1QiB", "not a size (as in 512MiB), expected 1MiB to 64TiB"}},
    {"max_tensor_bytes", {"1GiB", "expected 64KiB to 512MiB"}},
    {"max_items_per_request", {"0", "expected 1 to 1048576"}},
    {"max_tokens_per_request", {"2147483648", "expected 1 to 2147483647"}},
    {"max_stream_requests", {"-1", "expected 1 to 65536"}},
    {"max_queued_requests", {"0x10", "not a whole number, expected 1 to 2147483647"}},
    {"max_queued_items", {"1 000", "not a whole number"}},
    {"max_queued_tokens", {"1k", "not a whole number"}},
    {"max_batch_items", {"true", "not a whole number, expected 1 to 1048576"}},
    {"max_batch_tokens", {"0", "expected 1 to 2147483647"}},
    {"max_linger", {"11s", "\"11s\": expected 0 to 10s"}},
    {"default_lease", {"5 minutes", "not a time (as in 30s), expected 1ms to 8760h"}},
    {"default_lease", {"48h", "exceeds --max_lease 24h"}},
    {"max_lease", {"0", "expected 1ms to 8760h"}},
    {"drain_timeout", {"-30s", "not a time (as in 30s)"}},
    {"exit_with_stdin", {"yes", "expected true or false"}},
    {"integrity_check_interval", {"30", "\"30\": not a time (as in 30s)"}},
    {"log_level", {"INFO", "\"INFO\": expected one of trace, debug, info, warning, error"}},
    {"log_format", {"xml", "\"xml\": expected one of text, json"}},
};

TEST(OptionsTest, AMalformedValueInTheConfigFileIsNamedWithItsLine) {
  std::set<std::string> seen;
  for (const auto& [name, bad] : kMalformed) {
    const auto& [value, message] = bad;
    SCOPED_TRACE(name + " = " + value);
    const ConfigFile file("# one\n\n" + name + " = " + value + "\n");
    const ParsedOptions parsed = Parse({"--config", file.path()});
    EXPECT_EQ(parsed.exit_code, kExitUsage);
    EXPECT_THAT(parsed.message, StartsWith("attnd: "));
    EXPECT_THAT(parsed.message, HasSubstr(file.path() + ":3"));
    EXPECT_THAT(parsed.message, HasSubstr(name));
    EXPECT_THAT(parsed.message, HasSubstr(message));
    EXPECT_EQ(std::count(parsed.message.begin(), parsed.message.end(), '\n'), 1);
    seen.insert(name);
  }
  for (const std::string& name : OptionNames()) {
    EXPECT_EQ(seen.count(name), 1u) << "no malformed value of " << name << " is tested";
  }
}

TEST(OptionsTest, AllErrorsOfAConfigFileAreSaidInTheOrderOfLines) {
  const ConfigFile file("[server]\nnum_thread = 3\npool_bytes = lots\nnonsense\n");
  const ParsedOptions parsed = Parse({"--config", file.path()});
  EXPECT_EQ(parsed.exit_code, kExitUsage);
  EXPECT_THAT(parsed.message, MatchesRegex("attnd: .*:1: .*\nattnd: .*:2: .*\nattnd: .*:3: .*\n"
                                           "attnd: .*:4: .*\n"));
  std::string many;
  for (int i = 0; i < 1000; ++i) many += "nonsense\n";
  const ConfigFile long_file(many);
  EXPECT_THAT(Parse({"--config", long_file.path()}).message, EndsWith(": and 980 errors more\n"));
}

TEST(OptionsTest, AConfigFileThatCannotBeReadIsNamed) {
  const std::pair<std::string, std::string> cases[] = {
      {"/nonexistent/attnd.conf", "No such file or directory"},
      {"/tmp", "Is a directory"},
      {"/dev/zero", "it has more than 1048576 bytes"},
      {"", "No such file or directory"}};
  for (const auto& [path, why] : cases) {
    const ParsedOptions parsed = Parse({"--config=" + path});
    EXPECT_EQ(parsed.exit_code, kExitUsage);
    EXPECT_EQ(parsed.message, "attnd: --config \"" + path + "\": cannot be read: " + why + "\n");
  }
  EXPECT_EQ(Parse({"--config=/dev/null"}).options.ToString(), Options().ToString());
}

TEST(OptionsTest, AnErrorBetweenOptionsSaysWhereTheFileSetsThem) {
  const ConfigFile file("max_lease = 1h\ndefault_lease = 2h\n");
  EXPECT_EQ(Parse({"--config", file.path()}).message,
            "attnd: --default_lease 2h: exceeds --max_lease 1h (default_lease is set at " +
                file.path() + ":2) (max_lease is set at " + file.path() + ":1)\n");
  const ParsedOptions mixed = Parse({"--config", file.path(), "--default_lease=3h"});
  EXPECT_EQ(mixed.message,
            "attnd: --default_lease 3h: exceeds --max_lease 1h (max_lease is set at " +
                file.path() + ":1)\n");
  EXPECT_EQ(Parse({"--config", file.path(), "--default_lease=1m"}).exit_code, -1);
}

TEST(OptionsTest, AListOfFlagsReplacesTheFiles) {
  const ConfigFile file("listen = [\"localhost:1\", localhost:2]\nreflection = false\n");
  EXPECT_THAT(Parse({"--config", file.path()}).options.listen,
              ElementsAre("localhost:1", "localhost:2"));
  const ParsedOptions parsed =
      Parse({"--listen=localhost:3", "--config", file.path(), "--reflection"});
  EXPECT_THAT(parsed.options.listen, ElementsAre("localhost:3"));
  EXPECT_TRUE(parsed.options.reflection);
}

TEST(OptionsTest, StringsOfAnyKindComeBackFromWhatIsPrinted) {
  for (const std::string value : {"/tmp/a \"b\" \\c", "/tmp/# no comment", "/tmp/\xc3\xa9\xff",
                                  "a=b", " ", "'x'", "\n\t\r"}) {
    Options options;
    options.ready_file = value;
    const ConfigFile file(options.ToString());
    const ParsedOptions parsed = Parse({"--config", file.path()});
    ASSERT_EQ(parsed.exit_code, -1) << parsed.message;
    EXPECT_EQ(parsed.options.ready_file, value);
  }
}

// deploy/attnd.conf, as it is committed.
std::string CommittedExample() {
  std::ifstream file(ATTND_SOURCE_DIR "/deploy/attnd.conf");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(OptionsTest, TheExampleConfigIsWhatThisBuildPrints) {
  EXPECT_EQ(CommittedExample(), Parse({"--print_config"}).message)
      << "write it anew: attnd --print_config > deploy/attnd.conf";
  EXPECT_EQ(Parse({"--print_config"}).exit_code, 0);
}

TEST(OptionsTest, TheExampleConfigHoldsEveryOptionWithItsDefault) {
  const std::string text = CommittedExample();
  const ConfigFile as_it_is(text);
  EXPECT_EQ(Parse({"--config", as_it_is.path()}).options.ToString(), Options().ToString());
  // Every option taken out of its comment.
  std::string enabled;
  std::istringstream lines(text);
  int count = 0;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 100u) << line;
    const bool is_option = line.size() > 1 && line[0] == '#' && line[1] != ' ';
    enabled += (is_option ? line.substr(1) : line) + "\n";
    if (is_option) ++count;
  }
  EXPECT_EQ(count, static_cast<int>(OptionNames().size()));
  const ConfigFile file(enabled);
  const ParsedOptions parsed = Parse({"--config", file.path()});
  EXPECT_EQ(parsed.exit_code, -1) << parsed.message;
  EXPECT_EQ(parsed.options.ToString(), Options().ToString());
}

TEST(OptionsTest, CheckConfigLooksAtTheFilesThatAreNamed) {
  const ConfigFile file(
      "listen = unix:/nonexistent/folder/s\nready_file = /nonexistent/r\n"
      "backend = hip\nhip_plugin = /nonexistent/p.so\n");
  EXPECT_EQ(Parse({"--config", file.path()}).exit_code, -1);
  const ParsedOptions parsed = Parse({"--config", file.path(), "--check_config"});
  EXPECT_EQ(parsed.exit_code, kExitUsage);
  for (const char* part : {"there is no directory \"/nonexistent/folder\": create it",
                           "--ready_file \"/nonexistent/r\"",
                           "--hip_plugin \"/nonexistent/p.so\": No such file", ":4)"}) {
    EXPECT_THAT(parsed.message, HasSubstr(part));
  }
  const ParsedOptions secrets =
      Parse({"--tls_cert=/nonexistent/c.pem", "--tls_key=/nonexistent/k.pem",
             "--tenants_file=/nonexistent/t.yaml", "--check_config"});
  EXPECT_EQ(secrets.exit_code, kExitUsage);
  EXPECT_THAT(secrets.message, HasSubstr("/nonexistent/c.pem"));
  EXPECT_THAT(secrets.message, HasSubstr("/nonexistent/t.yaml"));
  const ParsedOptions warned =
      Parse({"--backend=auto", "--hip_plugin=/nonexistent/p.so", "--check_config"});
  EXPECT_EQ(warned.exit_code, 0);
  EXPECT_THAT(warned.message, StartsWith("# warning: --hip_plugin \"/nonexistent/p.so\": "));
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
