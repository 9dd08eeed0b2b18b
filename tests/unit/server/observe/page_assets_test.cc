// SPDX-License-Identifier: Apache-2.0
//
// The status page's files, as they were compiled in.
#include "server/observe/page_assets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>

namespace attnd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(PageAssetsTest, AreTheFilesByteForByte) {
  ASSERT_GT(PageAssets().size(), 5u);
  for (const PageAsset& asset : PageAssets()) {
    std::ifstream file(std::string(ATTND_PAGE_DIR) + "/" + std::string(asset.name),
                       std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    EXPECT_FALSE(text.empty()) << asset.name;
    EXPECT_EQ(asset.content, text) << asset.name;
  }
  EXPECT_EQ(FindPageAsset("no_such_file.js"), nullptr);
  EXPECT_EQ(FindPageAsset(""), nullptr);
}

// What a page names is there, and nothing is from elsewhere.
TEST(PageAssetsTest, NameOnlyEachOther) {
  const std::regex reference(R"re((?:src|href)="([^"#]+)"|from '\./([^']+)')re");
  int found = 0;
  for (const PageAsset& asset : PageAssets()) {
    const std::string text(asset.content);
    for (std::sregex_iterator at(text.begin(), text.end(), reference), end; at != end; ++at) {
      std::string name = (*at)[1].matched ? (*at)[1].str() : "/page/" + (*at)[2].str();
      if (name == "/metrics" || name == "/api/status") continue;
      ASSERT_TRUE(name.starts_with("/page/")) << asset.name << " names " << name;
      EXPECT_NE(FindPageAsset(name.substr(6)), nullptr) << asset.name << " names " << name;
      ++found;
    }
  }
  EXPECT_GT(found, 8);
}

// The Content-Security-Policy would stop them; and text of clients must not be able to.
TEST(PageAssetsTest, HaveNoInlineCodeOrStyleAndSetNoHtml) {
  const std::regex inline_code(R"re(<script(?! type="module" src=)|<style|\son\w+=|style=)re");
  for (const PageAsset& asset : PageAssets()) {
    const std::string text(asset.content);
    if (asset.name.ends_with(".html")) {
      EXPECT_FALSE(std::regex_search(text, inline_code));
    }
    for (const char* banned : {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write",
                               "eval(", "new Function", "setAttribute('style'"}) {
      EXPECT_THAT(text, Not(HasSubstr(banned))) << asset.name;
    }
  }
}

}  // namespace
}  // namespace attnd
