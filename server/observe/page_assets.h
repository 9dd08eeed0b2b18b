// SPDX-License-Identifier: Apache-2.0
//
// The files of the status page (server/observe/page), compiled into the daemon by CMake.
// Constants, safe from any thread.
//
//   if (const PageAsset* asset = FindPageAsset("style.css")) Send(asset->content);
#pragma once

#include <span>
#include <string_view>

namespace attnd {

struct PageAsset {
  std::string_view name;  // "index.html"
  std::string_view content;
};

std::span<const PageAsset> PageAssets();

inline const PageAsset* FindPageAsset(std::string_view name) {
  for (const PageAsset& asset : PageAssets()) {
    if (asset.name == name) return &asset;
  }
  return nullptr;
}

}  // namespace attnd
