// SPDX-License-Identifier: Apache-2.0
#include "server/security/tenants_file.h"

#include <openssl/evp.h>
#include <sys/stat.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "kv_cache/check.h"
#include "kv_cache/geometry.h"
#include "server/base/option_text.h"

namespace attnd {
namespace {

constexpr size_t kMinTokenBytes = 16, kMaxTokenBytes = 512, kMaxNameBytes = 64;
constexpr off_t kMaxFileBytes = 1 << 20;

// Where in the file something stands: "tenants.yaml:7: tenants[1].role".
class Place {
 public:
  Place(absl::string_view path, std::string field) : path_(path), field_(std::move(field)) {}

  Place operator/(absl::string_view key) const {
    return {path_, field_.empty() ? std::string(key) : absl::StrCat(field_, ".", key)};
  }
  Place operator[](size_t index) const { return {path_, absl::StrCat(field_, "[", index, "]")}; }
  absl::Status Error(const YAML::Node& node, absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ":", std::max(node.Mark().line + 1, 1), ": ", field_, ": ", what));
  }

 private:
  absl::string_view path_;
  std::string field_;
};

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' ||
                  c == '-';
         });
}

absl::StatusOr<std::string> Scalar(const YAML::Node& node, const Place& place,
                                   absl::string_view expected) {
  if (node.IsScalar()) return node.Scalar();
  return place.Error(node, absl::StrCat("expected ", expected));
}

absl::Status ParseCount(const YAML::Node& node, const Place& place, int64_t& value) {
  constexpr absl::string_view kExpected = "a whole number, 1 to 9223372036854775807";
  ATTND_ASSIGN_OR_RETURN(const std::string text, Scalar(node, place, kExpected));
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size() && value >= 1) {
    return absl::OkStatus();
  }
  return place.Error(node, absl::StrCat("\"", text, "\", expected ", kExpected));
}

absl::Status ParseSize(const YAML::Node& node, const Place& place, Bytes least, Bytes& value) {
  const std::string expected = absl::StrCat("a size of at least ", FormatBytes(least));
  ATTND_ASSIGN_OR_RETURN(const std::string text, Scalar(node, place, expected));
  const std::optional<Bytes> bytes = ParseBytes(text);
  if (!bytes || *bytes < least) {
    return place.Error(node, absl::StrCat("\"", text, "\", expected ", expected));
  }
  value = *bytes;
  return absl::OkStatus();
}

absl::Status ParseRole(const YAML::Node& node, const Place& place, Role& role) {
  ATTND_ASSIGN_OR_RETURN(const std::string text, Scalar(node, place, "a role"));
  for (const Role one : {Role::kTenant, Role::kMonitor, Role::kAdmin}) {
    if (text == Name(one)) {
      role = one;
      return absl::OkStatus();
    }
  }
  return place.Error(node, absl::StrCat("\"", text, "\", expected tenant, monitor or admin"));
}

// Never shows the token.
absl::Status ParseToken(const YAML::Node& node, const Place& place, Sha256& hash) {
  ATTND_ASSIGN_OR_RETURN(const std::string token, Scalar(node, place, "a token"));
  const bool visible = std::all_of(token.begin(), token.end(), [](char c) {
    return absl::ascii_isgraph(static_cast<unsigned char>(c));
  });
  if (!visible || token.size() < kMinTokenBytes || token.size() > kMaxTokenBytes) {
    return place.Error(node, absl::StrCat("has ", token.size(), " bytes, expected ", kMinTokenBytes,
                                          " to ", kMaxTokenBytes, " visible ASCII characters"));
  }
  hash = HashSecret(token);
  return absl::OkStatus();
}

absl::Status ParseTokenHash(const YAML::Node& node, const Place& place, Sha256& hash) {
  ATTND_ASSIGN_OR_RETURN(const std::string hex, Scalar(node, place, "a SHA-256 in hex"));
  const bool digits = std::all_of(hex.begin(), hex.end(), [](char c) {
    return absl::ascii_isxdigit(static_cast<unsigned char>(c));
  });
  if (!digits || hex.size() != 2 * hash.size()) {
    return place.Error(node, absl::StrCat("has ", hex.size(), " characters, expected the ",
                                          2 * hash.size(), " hex digits of a SHA-256"));
  }
  for (size_t i = 0; i < hash.size(); ++i) {
    std::from_chars(&hex[2 * i], &hex[2 * i] + 2, hash[i], 16);
  }
  return absl::OkStatus();
}

template <typename ParseOne>
absl::Status ParseTokens(const YAML::Node& node, const Place& place, const ParseOne& parse,
                         std::vector<Sha256>& tokens) {
  if (!node.IsSequence() || node.size() == 0) return place.Error(node, "expected a list");
  for (size_t i = 0; i < node.size(); ++i) {
    ATTND_RETURN_IF_ERROR(parse(node[i], place[i], tokens.emplace_back()));
  }
  return absl::OkStatus();
}

// Reads one entry of the list.
class TenantParser {
 public:
  TenantParser(const Place& place, TenantSpec& spec) : place_(place), spec_(spec) {}

  absl::Status Parse(const YAML::Node& node) {
    if (!node.IsMap()) return place_.Error(node, "expected a mapping with at least a name");
    for (const auto& entry : node) {
      ATTND_ASSIGN_OR_RETURN(const std::string key, Scalar(entry.first, place_, "a key"));
      if (!seen_.insert(key).second) return (place_ / key).Error(entry.first, "is said twice");
      ATTND_RETURN_IF_ERROR(ParseField(key, entry.first, entry.second));
    }
    if (spec_.name.empty()) return (place_ / "name").Error(node, "is missing");
    if (spec_.tokens.empty()) {
      return (place_ / "tokens")
          .Error(node, "is missing, and so is token_sha256: nobody could call");
    }
    if (spec_.role != Role::kTenant && spec_.share != TenantShare()) {
      return place_.Error(node, absl::StrCat("has limits, but the role ", Name(spec_.role),
                                             " holds nothing: limits are for the role tenant"));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status ParseField(const std::string& key, const YAML::Node& key_node,
                          const YAML::Node& value) {
    const Place place = place_ / key;
    if (key == "name") {
      ATTND_ASSIGN_OR_RETURN(spec_.name, Scalar(value, place, "a name"));
      if (IsName(spec_.name)) return absl::OkStatus();
      return place.Error(value,
                         absl::StrCat("\"", absl::CHexEscape(spec_.name), "\", expected 1 to ",
                                      kMaxNameBytes, " characters of [A-Za-z0-9._-]"));
    }
    if (key == "role") return ParseRole(value, place, spec_.role);
    if (key == "tokens") return ParseTokens(value, place, ParseToken, spec_.tokens);
    if (key == "token_sha256") return ParseTokens(value, place, ParseTokenHash, spec_.tokens);
    TenantShare& share = spec_.share;
    if (key == "max_kv_bytes") return ParseSize(value, place, kSuperblockBytes, share.kv_bytes);
    if (key == "max_staging_bytes") return ParseSize(value, place, Bytes(1), share.staging_bytes);
    const std::pair<absl::string_view, int64_t*> counts[] = {
        {"max_caches", &share.caches},
        {"max_sessions", &share.sessions},
        {"max_sequences", &share.sequences},
        {"max_queued_requests", &share.queued_requests},
        {"max_queued_items", &share.queued_items},
        {"max_queued_tokens", &share.queued_tokens}};
    for (const auto& [name, count] : counts) {
      if (key == name) return ParseCount(value, place, *count);
    }
    std::vector<std::string> known = {"name",         "role",         "tokens",
                                      "token_sha256", "max_kv_bytes", "max_staging_bytes"};
    for (const auto& [name, count] : counts) known.emplace_back(name);
    const absl::string_view closest = ClosestName(key, known);
    return place.Error(key_node, closest.empty()
                                     ? "unknown key"
                                     : absl::StrCat("unknown key; did you mean ", closest, "?"));
  }

  const Place place_;
  TenantSpec& spec_;
  std::set<std::string> seen_;
};

absl::Status CheckDistinct(const YAML::Node& list, const std::vector<TenantSpec>& tenants,
                           const Place& place) {
  std::map<std::string, size_t> names;
  std::map<Sha256, size_t> tokens;
  for (size_t i = 0; i < tenants.size(); ++i) {
    const auto [same, is_new] = names.emplace(tenants[i].name, i);
    if (!is_new) {
      return (place[i] / "name")
          .Error(list[i], absl::StrCat("\"", tenants[i].name, "\" is the name of tenants[",
                                       same->second, "], too"));
    }
    for (const Sha256& token : tenants[i].tokens) {
      const auto [holder, is_first] = tokens.emplace(token, i);
      if (is_first) continue;
      const std::string whose =
          holder->second == i
              ? "a token is given twice"
              : absl::StrCat("a token of \"", tenants[i].name, "\" is one of \"",
                             tenants[holder->second].name, "\", too: a token names one tenant");
      return place[i].Error(list[i], whose);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TenantSpec>> ParseRoot(const YAML::Node& root, absl::string_view path) {
  const Place top(path, "");
  if (!root.IsMap() || root.size() != 1 || !root["tenants"]) {
    return Place(path, "tenants").Error(root, "expected this one key, with a list of tenants");
  }
  const YAML::Node list = root["tenants"];
  const Place place = top / "tenants";
  if (!list.IsSequence() || list.size() == 0 || list.size() > kMaxTenants) {
    return place.Error(list, absl::StrCat("expected a list of 1 to ", kMaxTenants, " tenants"));
  }
  std::vector<TenantSpec> tenants(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    ATTND_RETURN_IF_ERROR(TenantParser(place[i], tenants[i]).Parse(list[i]));
  }
  ATTND_RETURN_IF_ERROR(CheckDistinct(list, tenants, place));
  return tenants;
}

}  // namespace

absl::string_view Name(Role role) {
  switch (role) {
    case Role::kTenant:
      return "tenant";
    case Role::kMonitor:
      return "monitor";
    case Role::kAdmin:
      return "admin";
  }
  return "";
}

Sha256 HashSecret(absl::string_view secret) {
  Sha256 hash{};
  unsigned int size = 0;
  // Without a hash every token would be every other.
  ATTND_CHECK(
      EVP_Digest(secret.data(), secret.size(), hash.data(), &size, EVP_sha256(), nullptr) == 1,
      "SHA-256 is not available");
  return hash;
}

absl::StatusOr<std::vector<TenantSpec>> ParseTenants(absl::string_view text,
                                                     absl::string_view path) {
  // The library throws where the text is no YAML.
  try {
    return ParseRoot(YAML::Load(std::string(text)), path);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ":", error.mark.line + 1, ": not YAML: ", error.msg));
  }
}

absl::StatusOr<std::string> ReadSecretFile(const std::string& path) {
  const auto bad = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("\"", path, "\": ", what));
  };
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return bad(strerror(errno));
  if (!S_ISREG(status.st_mode)) return bad("not a regular file");
  if ((status.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    return bad(absl::StrFormat(
        "its mode %04o lets everybody read or change it, and it holds secrets: chmod 0600",
        static_cast<unsigned>(status.st_mode & 07777)));
  }
  if (status.st_size > kMaxFileBytes) {
    return bad(
        absl::StrCat("has ", status.st_size, " bytes, at most ", kMaxFileBytes, " are expected"));
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(status.st_size), '\0');
  if (!file || !file.read(text.data(), status.st_size)) {
    return bad(errno != 0 ? strerror(errno) : "cannot be read");
  }
  return text;
}

}  // namespace attnd
