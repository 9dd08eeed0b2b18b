// SPDX-License-Identifier: Apache-2.0
//
// The daemon on a GPU, from outside: the attnd program with --backend=hip (ATTND_TEST_BACKEND names
// another), the client library, the reference, a kill.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "client/cli/reference.h"
#include "client/cpp/client.h"
#include "tests/integration/daemon.h"
#include "tests/integration/test_client.h"

namespace attnd {
namespace {

using cli::ErrorStats;
using cli::HostKv;
using cli::HostTensor;
using ::testing::HasSubstr;

std::string Backend() {
  const char* given = std::getenv("ATTND_TEST_BACKEND");
  return given != nullptr ? given : "hip";
}

ChildDaemon StartDaemon() { return ChildDaemon({"--backend=" + Backend()}); }

std::unique_ptr<client::Client> Connect(const ChildDaemon& daemon) {
  absl::StatusOr<std::unique_ptr<client::Client>> client =
      client::Client::Connect({.address = daemon.address()});
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? *std::move(client) : nullptr;
}

client::CacheGeometry Geometry(DType kv_dtype, int32_t head_dim = 128) {
  return {.num_layers = 2,
          .num_query_heads = 8,
          .num_kv_heads = 2,
          .head_dim_k = head_dim,
          .kv_dtype = kv_dtype};
}

// One sequence in every layer, with what it holds on this side.
struct Mirror {
  Mirror(client::Sequence made, const client::CacheGeometry& geometry)
      : sequence(std::move(made)),
        layers(static_cast<size_t>(geometry.num_layers), HostKv(geometry)) {}
  client::Sequence sequence;
  std::vector<HostKv> layers;
};

// Appends `rows` tokens to each sequence in each layer, one request a layer, and compares.
void Step(client::Session& session, const client::CacheGeometry& geometry, DType dtype,
          std::vector<Mirror>& mirrors, int64_t rows, std::mt19937_64& random, ErrorStats& errors) {
  client::AttentionOptions options;
  options.causal = true;
  options.return_lse = true;
  for (int32_t layer = 0; layer < geometry.num_layers; ++layer) {
    struct Tensors {
      HostTensor q, k, v;
    };
    std::vector<Tensors> tensors;
    std::vector<client::AttendItem> items;
    tensors.reserve(mirrors.size());
    for (Mirror& mirror : mirrors) {
      const int64_t dim = geometry.head_dim_k;
      Tensors& t = tensors.emplace_back(
          Tensors{HostTensor::Normal(dtype, rows * geometry.num_query_heads * dim, random),
                  HostTensor::Normal(dtype, rows * geometry.num_kv_heads * dim, random),
                  HostTensor::Normal(dtype, rows * geometry.num_kv_heads * dim, random)});
      items.push_back({.sequence = &mirror.sequence,
                       .layer = layer,
                       .start_position = mirror.layers[static_cast<size_t>(layer)].length(),
                       .q = t.q.view(),
                       .k = t.k.view(),
                       .v = t.v.view(),
                       .options = options});
    }
    const absl::StatusOr<client::AttendResult> result = session.Attend(items);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_TRUE(result->ok()) << result->first_error();
    ErrorStats lse_errors;
    for (size_t i = 0; i < mirrors.size(); ++i) {
      HostKv& host = mirrors[i].layers[static_cast<size_t>(layer)];
      host.Write(items[i].start_position, tensors[i].k.view(), tensors[i].v.view());
      host.Compare(
          {.q = tensors[i].q.view(), .start_position = items[i].start_position, .options = options},
          result->items()[i].out, result->items()[i].lse, errors, lse_errors);
    }
    EXPECT_LE(lse_errors.max_abs, 1e-3);
  }
}

TEST(GpuDaemonTest, SaysAtStartWhereItRuns) {
  ChildDaemon daemon = StartDaemon();
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  EXPECT_THAT(daemon.log(), HasSubstr("backend: " + Backend()));
  EXPECT_THAT(daemon.log(), HasSubstr("as asked for with --backend"));
  const std::unique_ptr<client::Client> client = Connect(daemon);
  ASSERT_NE(client, nullptr);
  EXPECT_EQ(client->capabilities().backend, Backend());
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait(), 0) << daemon.log();
}

TEST(GpuDaemonTest, AppendsAndAttendsAsTheReferenceDoes) {
  ChildDaemon daemon = StartDaemon();
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  const std::unique_ptr<client::Client> client = Connect(daemon);
  ASSERT_NE(client, nullptr);
  std::mt19937_64 random(std::random_device{}());
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    SCOPED_TRACE(std::string(Name(dtype)));
    const client::CacheGeometry geometry = Geometry(dtype);
    const absl::StatusOr<client::Cache> cache =
        client->OpenCache("e2e-" + std::string(Name(dtype)), geometry);
    ASSERT_TRUE(cache.ok()) << cache.status();
    const auto session = client->OpenSession();
    ASSERT_TRUE(session.ok()) << session.status();
    std::vector<Mirror> mirrors;
    for (int i = 0; i < 3; ++i) {
      absl::StatusOr<client::Sequence> sequence = (*session)->CreateSequence(*cache);
      ASSERT_TRUE(sequence.ok()) << sequence.status();
      mirrors.emplace_back(*std::move(sequence), geometry);
    }
    ErrorStats errors;
    // A prompt, more of it, and tokens one by one.
    for (const int64_t rows : {150, 33, 1, 1, 1, 1}) {
      Step(**session, geometry, dtype, mirrors, rows, random, errors);
      if (HasFatalFailure()) return;
    }
    EXPECT_EQ(errors.not_finite, 0);
    EXPECT_LE(errors.relative_l2(), cli::ErrorBound(dtype));
    RecordProperty("relative_l2_" + std::string(Name(dtype)), std::to_string(errors.relative_l2()));
    EXPECT_TRUE((*session)->Close().ok());
  }
}

// A fork shares pages until one of the two writes: copy-on-write is a copy on the device.
TEST(GpuDaemonTest, AForkWritesToCopiesOfItsPages) {
  ChildDaemon daemon = StartDaemon();
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  const std::unique_ptr<client::Client> client = Connect(daemon);
  ASSERT_NE(client, nullptr);
  const client::CacheGeometry geometry = Geometry(DType::kF32, 64);
  const absl::StatusOr<client::Cache> cache = client->OpenCache("fork", geometry);
  ASSERT_TRUE(cache.ok()) << cache.status();
  const auto session = client->OpenSession();
  ASSERT_TRUE(session.ok()) << session.status();
  absl::StatusOr<client::Sequence> parent = (*session)->CreateSequence(*cache);
  ASSERT_TRUE(parent.ok()) << parent.status();
  std::mt19937_64 random(std::random_device{}());
  ErrorStats errors;
  std::vector<Mirror> mirrors;
  mirrors.emplace_back(*std::move(parent), geometry);
  Step(**session, geometry, DType::kF32, mirrors, 40, random, errors);  // ends in mid-page
  if (HasFatalFailure()) return;
  absl::StatusOr<client::Sequence> child = mirrors[0].sequence.Fork();
  ASSERT_TRUE(child.ok()) << child.status();
  Mirror forked = mirrors[0];
  forked.sequence = *std::move(child);
  mirrors.push_back(std::move(forked));
  for (int i = 0; i < 3; ++i) {
    Step(**session, geometry, DType::kF32, mirrors, 1, random, errors);
    if (HasFatalFailure()) return;
  }
  EXPECT_LE(errors.relative_l2(), cli::ErrorBound(DType::kF32));
}

// The cache "model" of a daemon, by the id that it has on the wire.
void OpenModel(client::Client& client, v1::Id& id) {
  const absl::StatusOr<client::Cache> cache = client.OpenCache("model", Geometry(DType::kBF16));
  ASSERT_TRUE(cache.ok()) << cache.status();
  id.set_boot(cache->info.id.boot);
  id.set_handle(cache->info.id.handle);
}

TEST(GpuDaemonTest, AKilledDaemonsIdsAreNotFoundInTheNext) {
  TestSession session;
  v1::Id sequence;
  client::Id old_session;
  std::string token;
  {
    ChildDaemon daemon = StartDaemon();
    ASSERT_TRUE(daemon.serving()) << daemon.log();
    const std::unique_ptr<client::Client> client = Connect(daemon);
    ASSERT_NE(client, nullptr);
    v1::Id cache;
    OpenModel(*client, cache);
    if (HasFatalFailure()) return;
    TestClient raw(daemon.address());
    session = raw.NewSession();
    sequence = raw.NewSequence(session, cache);
    daemon.Signal(SIGKILL);
    EXPECT_EQ(daemon.Wait(), 128 + SIGKILL);
  }
  ChildDaemon daemon = StartDaemon();
  ASSERT_TRUE(daemon.serving()) << daemon.log();
  const std::unique_ptr<client::Client> client = Connect(daemon);
  ASSERT_NE(client, nullptr);
  // The same slots are taken again, by others.
  v1::Id cache;
  OpenModel(*client, cache);
  if (HasFatalFailure()) return;
  TestClient raw(daemon.address());
  const TestSession other = raw.NewSession();
  raw.NewSequence(other, cache);
  Batch theirs(session);
  theirs.Add({.sequence = sequence});
  EXPECT_EQ(raw.Attend(theirs.request()).status.error_code(), grpc::StatusCode::NOT_FOUND);
  Batch mine(other);
  mine.Add({.sequence = sequence});
  EXPECT_EQ(raw.Attend(mine.request()).response.results(0).status().code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(client->ResumeSession(session.token).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace attnd
