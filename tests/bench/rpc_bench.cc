// SPDX-License-Identifier: Apache-2.0
//
// What a call costs from end to end over a Unix socket: client, gRPC both ways, admission,
// scheduler, kernel, and back.
//
//   build/release/bench/bin/rpc_bench [--json FILE]
//
// Workloads, each with the decode step of one sequence in one layer (4 query heads over 2, dims 32
// and 16, at most 512 keys), daemon and client in this process:
//   renew_lease    an empty call that the gRPC thread answers at once: the floor that gRPC itself
//   sets unary, fake    Attend on a device that computes nothing: what attnd adds to the floor
//   unary, cpu     Attend on the CPU backend
//   stream, cpu    the same on an AttendStream, one request in flight
// The outcome of every call is checked; the numbers themselves are the integration tests' business.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "spdlog/spdlog.h"
#include "tests/bench/report.h"
#include "tests/bench/stopwatch.h"
#include "tests/integration/daemon.h"
#include "tests/integration/test_client.h"

namespace attnd::bench {
namespace {

constexpr int kWarmup = 1000, kCalls = 10000;
constexpr int64_t kMaxTokens = 512;  // then the sequence starts over

void Require(bool condition, const std::string& what) {
  if (condition) return;
  std::fprintf(stderr, "rpc_bench: verification failed: %s\n", what.c_str());
  std::exit(1);
}

// A client with one sequence, and its decode steps.
class Decoder {
 public:
  explicit Decoder(const std::string& address)
      : client_(address), session_(client_.NewSession()), batch_(session_) {
    batch_.Add({.sequence = client_.NewSequence(session_, client_.OpenCache())});
  }

  const v1::AttendRequest& NextStep() {
    v1::AttendItem& item = *batch_.request().mutable_items(0);
    item.set_start_position(static_cast<int64_t>(step_) % kMaxTokens);
    item.set_step(++step_);
    return batch_.request();
  }
  void Check(const v1::AttendResponse& response) const {
    Require(response.results_size() == 1 && response.results(0).status().code() == 0 &&
                response.results(0).has_out(),
            response.ShortDebugString());
  }
  TestClient& client() { return client_; }
  const TestSession& session() const { return session_; }

 private:
  TestClient client_;
  TestSession session_;
  Batch batch_;
  uint64_t step_ = 0;
};

template <typename Call>
void Measure(Report& report, const std::string& name, const Call& call) {
  for (int i = 0; i < kWarmup; ++i) call();
  std::vector<double> samples;
  samples.reserve(kCalls);
  for (int i = 0; i < kCalls; ++i) {
    const Stopwatch watch;
    call();
    samples.push_back(watch.Seconds() * 1e6);
  }
  report.AddSamples(name, "us", samples);
}

void MeasureFloor(Report& report, Decoder& decoder) {
  v1::RenewLeaseRequest request;
  *request.mutable_session() = decoder.session().id;
  request.set_epoch(decoder.session().epoch);
  Measure(report, "renew_lease", [&] {
    grpc::ClientContext context;
    v1::RenewLeaseResponse response;
    Require(decoder.client().sessions->RenewLease(&context, request, &response).ok(), "RenewLease");
  });
}

void MeasureUnary(Report& report, const std::string& name, Decoder& decoder) {
  Measure(report, name, [&] {
    grpc::ClientContext context;
    v1::AttendResponse response;
    const grpc::Status status =
        decoder.client().attention->Attend(&context, decoder.NextStep(), &response);
    Require(status.ok(), status.error_message());
    decoder.Check(response);
  });
}

void MeasureStream(Report& report, const std::string& name, Decoder& decoder) {
  grpc::ClientContext context;
  const auto stream = decoder.client().attention->AttendStream(&context);
  Measure(report, name, [&] {
    v1::AttendResponse response;
    Require(stream->Write(decoder.NextStep()) && stream->Read(&response), "the stream ended");
    decoder.Check(response);
  });
  stream->WritesDone();
  Require(stream->Finish().ok(), "Finish");
}

int Run(int argc, const char* const* argv) {
  spdlog::set_level(spdlog::level::warn);
  Report report("rpc", argc, argv);
  {
    FakePlatform platform;
    platform.StopRecording();
    InProcessDaemon daemon(platform);
    Decoder decoder(daemon.address());
    MeasureFloor(report, decoder);
    MeasureUnary(report, "unary, fake", decoder);
  }
  InProcessDaemon daemon;
  Decoder decoder(daemon.address());
  MeasureUnary(report, "unary, cpu", decoder);
  MeasureStream(report, "stream, cpu", decoder);
  return report.Finish();
}

}  // namespace
}  // namespace attnd::bench

int main(int argc, char** argv) { return attnd::bench::Run(argc, argv); }
