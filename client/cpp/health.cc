// SPDX-License-Identifier: Apache-2.0
#include "client/cpp/health.h"

#include <vector>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include "client/cpp/client.h"
#include "client/cpp/internal/concat.h"
#include "client/cpp/internal/connection.h"
#include "kernels/base/status_macros.h"

namespace attnd::client {
namespace {

using google::protobuf::internal::WireFormatLite;

constexpr char kMethod[] = "/grpc.health.v1.Health/Check";
constexpr uint64_t kServing = 1;

// HealthCheckRequest{service = 1} and HealthCheckResponse{status = 1}, of grpc.health.v1: written
// out, since gRPC's packages do not have these messages for C++.
std::string EncodeRequest(const std::string& service) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream out(&stream);
  WireFormatLite::WriteString(1, service, &out);
  return bytes;
}

bool DecodeResponse(const grpc::ByteBuffer& buffer, uint64_t* status) {
  std::vector<grpc::Slice> slices;
  if (!buffer.Dump(&slices).ok()) return false;
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  google::protobuf::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()),
                                            static_cast<int>(bytes.size()));
  *status = 0;
  while (const uint32_t tag = in.ReadTag()) {
    if (tag == WireFormatLite::MakeTag(1, WireFormatLite::WIRETYPE_VARINT)) {
      if (!in.ReadVarint64(status)) return false;
    } else if (!WireFormatLite::SkipField(&in, tag)) {
      return false;
    }
  }
  return in.ConsumedEntireMessage();
}

const char* NameOf(uint64_t status) {
  constexpr const char* kNames[] = {"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"};
  return status < std::size(kNames) ? kNames[status] : "an unknown status";
}

}  // namespace

absl::Status CheckHealth(const HealthOptions& options) {
  ClientOptions client{.address = options.address, .credentials = options.credentials};
  client.credentials.token.clear();
  client.credentials.token_file.clear();
  client.retry.max_attempts = 1;
  ATTND_ASSIGN_OR_RETURN(const std::shared_ptr<Connection> connection, Connection::Open(client));

  const std::string bytes = EncodeRequest(options.service);
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  context.set_deadline(gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                    gpr_time_from_nanos(options.timeout.count(), GPR_TIMESPAN)));
  grpc::CompletionQueue queue;
  auto call = connection->stub().PrepareUnaryCall(&context, kMethod, request, &queue);
  call->StartCall();
  grpc::Status grpc_status;
  call->Finish(&response, &grpc_status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  (void)queue.Next(&tag, &ok);  // its deadline is the call's
  ATTND_RETURN_IF_ERROR(connection->ToStatus(grpc_status));

  uint64_t status = 0;
  if (!DecodeResponse(response, &status)) {
    return absl::InternalError(
        Concat("what answers at ", options.address, " sent a malformed health response"));
  }
  if (status == kServing) return absl::OkStatus();
  const std::string what =
      options.service.empty() ? std::string("the daemon") : Concat("service ", options.service);
  return absl::UnavailableError(
      Concat(what, " at ", options.address, " says ", NameOf(status), ", expected SERVING"));
}

}  // namespace attnd::client
