// SPDX-License-Identifier: Apache-2.0
//
// attnctl capabilities: what the daemon's backend supports, as a matrix.
#include <iostream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "client/cli/command.h"
#include "client/cli/format.h"
#include "client/cli/table.h"

namespace attnd::cli {
namespace {

using client::Capabilities;

// Every option of the wire contract, so that what is missing shows.
constexpr const char* kFeatures[] = {"causal", "window",    "softcap", "alibi",
                                     "sinks",  "tree_mask", "dropout", "lse"};

std::string DimName(const std::pair<int32_t, int32_t>& dim) {
  return dim.first == dim.second ? std::to_string(dim.first)
                                 : std::to_string(dim.first) + "/" + std::to_string(dim.second);
}

nlohmann::json ToJson(const Capabilities& capabilities) {
  nlohmann::json json = {{"version", capabilities.version},
                         {"backend", capabilities.backend},
                         {"isa", capabilities.isa},
                         {"device", capabilities.device},
                         {"any_head_dim", capabilities.any_head_dim},
                         {"max_head_dim", capabilities.max_head_dim},
                         {"max_page_size_tokens", capabilities.max_page_size_tokens},
                         {"features", capabilities.features},
                         {"max_items_per_request", capabilities.max_items_per_request},
                         {"max_tokens_per_request", capabilities.max_tokens_per_request},
                         {"max_message_bytes", capabilities.max_message_bytes},
                         {"dtypes", nlohmann::json::array()},
                         {"head_dims", nlohmann::json::array()}};
  for (const auto& [q, kv] : capabilities.dtypes) {
    json["dtypes"].push_back({{"q", std::string(Name(q))}, {"kv", std::string(Name(kv))}});
  }
  for (const auto& [k, v] : capabilities.head_dims) {
    json["head_dims"].push_back({{"k", k}, {"v", v}});
  }
  return json;
}

void PrintMatrix(const Capabilities& capabilities) {
  std::vector<std::string> headings = {"q / kv"};
  for (const auto& dim : capabilities.head_dims) headings.push_back(DimName(dim));
  if (capabilities.any_head_dim) {
    headings.push_back("others to " + std::to_string(capabilities.max_head_dim));
  }
  Table table(headings);
  for (const auto& [q, kv] : capabilities.dtypes) {
    std::vector<std::string> row = {std::string(Name(q)) + " / " + std::string(Name(kv))};
    row.resize(1 + capabilities.head_dims.size(), "tuned");
    if (capabilities.any_head_dim) row.emplace_back("yes");
    table.Add(row);
  }
  std::cout << "\nTypes and head dims (k/v where they differ)\n" << table.ToString(2);

  Table features({"option", "<supported"});
  for (const char* feature : kFeatures)
    features.Add({feature, capabilities.Has(feature) ? "yes" : "no"});
  std::cout << "\nOptions, in any combination\n" << features.ToString(2);
}

int Run(const Globals& globals) {
  const auto client = Connect(globals);
  if (!client.ok()) return Fail(globals, client.status());
  const Capabilities& capabilities = (*client)->capabilities();
  if (globals.json) {
    std::cout << ToJson(capabilities).dump(2) << "\n";
    return kSuccess;
  }
  Fields fields;
  fields.Add("daemon", "attnd " + capabilities.version + " at " + globals.address);
  fields.Add("backend", capabilities.backend + ", " + capabilities.isa);
  fields.Add("device", capabilities.device);
  fields.Add("page size", "1 to " + std::to_string(capabilities.max_page_size_tokens) + " tokens");
  fields.Add("request",
             HumanCount(static_cast<double>(capabilities.max_items_per_request)) + " items, " +
                 HumanCount(static_cast<double>(capabilities.max_tokens_per_request)) +
                 " query tokens, " +
                 HumanBytes(static_cast<double>(capabilities.max_message_bytes)) + " at most");
  std::cout << fields.ToString();
  PrintMatrix(capabilities);
  return kSuccess;
}

}  // namespace

void AddCapabilitiesCommand(CLI::App& app, Globals& globals) {
  CLI::App* command = app.add_subcommand("capabilities", "What the daemon supports, as a matrix");
  command->callback([&globals] { globals.exit_code = Run(globals); });
}

}  // namespace attnd::cli
