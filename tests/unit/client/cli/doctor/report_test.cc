// SPDX-License-Identifier: Apache-2.0
//
// The report, the texts that checks are made of, and what needs no tree of files.
#include "client/cli/doctor/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "client/cli/doctor/text.h"
#include "tests/unit/client/cli/doctor/fake_machine.h"

namespace attnd::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ReportTest, CountsAndPrintsEachVerdict) {
  std::string streamed;
  Report report([&streamed](const Finding& finding) { streamed += ToText(finding, false); });
  report.Ok("a", "fine");
  report.Warn("b", "so so", "do that");
  report.Fail("c", "broken");
  report.Unknown("d", "no file");
  EXPECT_EQ(report.Summary(), "1 failed, 1 warnings, 1 unknown");
  EXPECT_EQ(streamed,
            "ok    a               fine\n"
            "warn  b               so so\n"
            "                      -> do that\n"
            "FAIL  c               broken\n"
            "?     d               unknown: no file\n");
  const nlohmann::json json = report.ToJson();
  EXPECT_EQ(json["ok"], false);
  EXPECT_EQ(json["checks"].size(), 4);
  EXPECT_EQ(json["checks"][1]["advice"], "do that");
  EXPECT_EQ(json["checks"][3]["verdict"], "unknown");
  EXPECT_THAT(ToText(report.findings()[0], true), HasSubstr("\x1b[32mok  \x1b[0m"));
}

TEST(TextTest, TakesLinesApart) {
  EXPECT_THAT(Split("a,,b", ','), ElementsAre("a", "", "b"));
  EXPECT_THAT(Words("  a \t b "), ElementsAre("a", "b"));
  EXPECT_THAT(Words("1, 2", ", "), ElementsAre("1", "2"));
  EXPECT_EQ(ToNumber("0x1002"), 0x1002);
  EXPECT_EQ(ToNumber("18446744073709551615"), UINT64_MAX);
  for (const char* bad : {"", "-1", "1.5", "12 ", "0x", "18446744073709551616"}) {
    EXPECT_FALSE(ToNumber(bad)) << bad;
  }
  EXPECT_EQ(LeadingNumber("2482Mhz"), 2482);
  EXPECT_EQ(LeadingFraction("16.0 GT/s PCIe"), 16.0);
  EXPECT_FALSE(LeadingFraction("Unknown"));
}

TEST(HostTest, AFileThatCannotBeReadIsNothing) {
  FakeMachine machine;
  machine.Write("/sys/folder/file", "7 \n");
  EXPECT_EQ(machine.host().ReadNumber("/sys/folder/file"), 7);
  EXPECT_FALSE(machine.host().Read("/sys/folder")) << "a folder opens, and refuses to be read";
  EXPECT_FALSE(machine.host().Read("/sys/none"));
  machine.Link("/sys/link", "folder/file");
  EXPECT_EQ(machine.host().Resolve("/sys/link"), "/sys/folder/file");
}

TEST(ConnectionTest, TellsThisMachineFromOthers) {
  EXPECT_TRUE(IsLocalAddress("unix:/run/attnd.sock"));
  EXPECT_TRUE(IsLocalAddress("127.0.0.1:7450"));
  EXPECT_TRUE(IsLocalAddress("localhost:7450"));
  EXPECT_TRUE(IsLocalAddress("[::1]:7450"));
  EXPECT_FALSE(IsLocalAddress("gpu-box.invalid:7450"));
  EXPECT_FALSE(IsLocalAddress("192.0.2.7:7450"));  // for documentation, nobody's
}

TEST(ConnectionTest, ARemoteDaemonSaysWhatATokenCosts) {
  DaemonFacts daemon{.round_trip_s = 0.001, .local = false};
  daemon.stats.emplace();
  client::CacheInfo cache;
  cache.geometry = {.num_layers = 30, .num_query_heads = 9, .num_kv_heads = 3, .head_dim_k = 64};
  daemon.stats->caches.push_back(cache);
  Globals globals;
  globals.address = "192.0.2.7:7450";
  Report report;
  CheckDistance(globals, daemon, report);
  // 30 layers of (9 + 3 + 3 + 9) * 64 numbers of 4 bytes; 30 round trips of a millisecond.
  EXPECT_THAT(FindingsOf(report, "distance"), HasSubstr("moves 180 KiB in f32"));
  EXPECT_THAT(FindingsOf(report, "distance"), HasSubstr("30 round trips, now 30.0 ms"));
}

}  // namespace
}  // namespace attnd::cli
