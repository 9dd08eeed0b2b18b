// SPDX-License-Identifier: Apache-2.0
//
// The status page's files, as they were compiled in.
#include "server/observe/page_assets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

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

// What follows each `before` in `text`, up to `end`.
std::vector<std::string> Between(const std::string& text, const std::string& before, char end) {
  std::vector<std::string> found;
  for (size_t at = text.find(before); at != std::string::npos; at = text.find(before, at + 1)) {
    const size_t begin = at + before.size();
    found.push_back(text.substr(begin, text.find(end, begin) - begin));
  }
  return found;
}

// What a page names is there, and nothing is from elsewhere.
TEST(PageAssetsTest, NameOnlyEachOther) {
  int found = 0;
  for (const PageAsset& asset : PageAssets()) {
    const std::string text(asset.content);
    std::vector<std::string> names = Between(text, "from './", '\'');
    for (std::string& name : names) name.insert(0, "/page/");
    for (const char* attribute : {"src=\"", "href=\""}) {
      for (std::string& name : Between(text, attribute, '"')) {
        if (!name.starts_with("#")) names.push_back(std::move(name));
      }
    }
    for (const std::string& name : names) {
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
  for (const PageAsset& asset : PageAssets()) {
    const std::string text(asset.content);
    if (asset.name.ends_with(".html")) {
      for (const std::string& script : Between(text, "<script", '>')) {
        EXPECT_THAT(script, HasSubstr("type=\"module\" src="));
      }
      EXPECT_THAT(text, Not(HasSubstr("<style")));
      EXPECT_THAT(text, Not(HasSubstr("style=")));
      for (const char* handler :
           {" onclick=", " onload=", " onerror=", " onchange=", " oninput="}) {
        EXPECT_THAT(text, Not(HasSubstr(handler)));
      }
    }
    for (const char* banned : {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write",
                               "eval(", "new Function", "setAttribute('style'"}) {
      EXPECT_THAT(text, Not(HasSubstr(banned))) << asset.name;
    }
  }
}

}  // namespace
}  // namespace attnd
