// SPDX-License-Identifier: Apache-2.0
//
// ROCm's user-space libraries: which release, is HIP's runtime there, and what the hipBLASLt
// warning of PyTorch is about. attnd's plugin loads libamdhip64 and nothing else of ROCm.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/doctor/checks.h"
#include "client/cli/doctor/text.h"

namespace attnd::cli {
namespace {

constexpr uint64_t kOldestRocm = 6;  // the major release that attnd's plugin is built against

// Where ROCm's libraries live: AMD's packages, then Debian's.
std::vector<std::string> LibraryFolders(const Host& host) {
  std::vector<std::string> folders = {"/opt/rocm/lib", "/opt/rocm/lib64"};
  for (const std::string& name : host.List("/opt")) {
    if (name.rfind("rocm-", 0) == 0) folders.push_back("/opt/" + name + "/lib");
  }
  folders.insert(folders.end(), {"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu",
                                 "/usr/lib64", "/usr/lib"});
  return folders;
}

// The first file of that beginning, the one with the longest version where there are several.
std::string FindLibrary(const Host& host, std::string_view prefix) {
  for (const std::string& folder : LibraryFolders(host)) {
    std::string best;
    for (const std::string& name : host.List(folder)) {
      if (name.rfind(prefix, 0) == 0 && name.size() >= best.size()) best = name;
    }
    if (!best.empty()) return absl::StrCat(folder, "/", best);
  }
  return "";
}

// The version of the first installed Debian package whose name begins so.
std::string DebianVersion(const Host& host, std::string_view prefix) {
  const std::string status = host.Read("/var/lib/dpkg/status").value_or("");
  std::string_view name;
  bool installed = false;
  for (const std::string_view line : Split(status, '\n')) {
    if (line.rfind("Package: ", 0) == 0) {
      name = line.substr(9);
      installed = false;
    }
    if (line.rfind("Status: ", 0) == 0) installed = line == "Status: install ok installed";
    // After Package and Status in every paragraph.
    if (line.rfind("Version: ", 0) == 0 && installed && name.rfind(prefix, 0) == 0) {
      return std::string(line.substr(9));
    }
  }
  return "";
}

}  // namespace

void CheckRocm(const Host& host, Report& report) {
  const std::string library = FindLibrary(host, "libamdhip64.so");
  std::string version, source;
  if (const auto info = host.Read("/opt/rocm/.info/version")) {
    version = *info;
    source = "/opt/rocm/.info/version";
  } else if (version = DebianVersion(host, "libamdhip64-"); !version.empty()) {
    source = "Debian's libamdhip64";
  } else if (const size_t suffix = library.find(".so."); suffix != std::string::npos) {
    version = library.substr(suffix + 4);
    source = "the library's name";
  }
  if (library.empty()) {
    return report.Fail("rocm", "no libamdhip64 in /opt/rocm*/lib or the system's library folders",
                       "install ROCm 6 (AMD's packages: rocm-hip-runtime; Debian 13 and later: "
                       "libamdhip64-6), or keep it elsewhere and set LD_LIBRARY_PATH for attnd");
  }
  if (version.empty()) {
    return report.Unknown("rocm", library + " is there, but nothing says of which release",
                          "ROCm 6.0 or later is needed");
  }
  const std::string found = absl::StrCat(version, " (", source, "), ", library);
  if (LeadingNumber(version).value_or(0) < kOldestRocm) {
    return report.Fail("rocm", found, "attnd needs ROCm 6.0 or later");
  }
  report.Ok("rocm", found);
}

void CheckHipblaslt(const Host& host, const AmdGpus& amd, const Environment& environment,
                    Report& report) {
  if (amd.gpus.empty()) return;
  std::vector<std::string> settings;
  for (const char* name : {"HIPBLASLT_TENSILE_LIBPATH", "TENSILE_DB", "HIPBLASLT_LOG_LEVEL",
                           "ROCBLAS_USE_HIPBLASLT", "TORCH_BLAS_PREFER_HIPBLASLT"}) {
    if (const auto found = environment.find(name); found != environment.end()) {
      settings.push_back(absl::StrCat(name, "=", found->second));
    }
  }
  const std::string tail = settings.empty() ? "" : "; " + absl::StrJoin(settings, " ");
  const std::string library = FindLibrary(host, "libhipblaslt.so");
  if (library.empty()) {
    return report.Ok("hipblaslt", "not installed for the system; attnd does not use it" + tail,
                     "PyTorch's wheels bring their own for its matrix products");
  }
  std::string folder = library.substr(0, library.rfind('/')) + "/hipblaslt/library";
  if (const auto chosen = environment.find("HIPBLASLT_TENSILE_LIBPATH");
      chosen != environment.end()) {
    folder = chosen->second;
  }
  const std::vector<std::string> files = host.List(folder);
  if (files.empty()) {
    return report.Unknown(
        "hipblaslt", absl::StrCat(library, " is there, but its kernels are not in ", folder, tail),
        "attnd does not use it");
  }
  for (const AmdGpu& gpu : amd.gpus) {
    if (std::any_of(files.begin(), files.end(), [&gpu](const std::string& file) {
          return file.find(gpu.target) != std::string::npos;
        })) {
      continue;
    }
    return report.Warn(
        "hipblaslt", absl::StrCat(folder, " has no kernels for ", gpu.Name(), tail),
        "PyTorch then warns and falls back to rocBLAS: results are right, its matrix products "
        "slower. TORCH_BLAS_PREFER_HIPBLASLT=0 asks for rocBLAS at once. attnd uses neither");
  }
  report.Ok("hipblaslt", absl::StrCat(library, " has kernels for every GPU here", tail),
            "its warnings come from PyTorch's matrix products, and change no result of attnd");
}

}  // namespace attnd::cli
