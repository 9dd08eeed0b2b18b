// SPDX-License-Identifier: Apache-2.0
//
// The names of the daemon's methods, as they go over the wire.
#pragma once

namespace attnd::client {

inline constexpr char kGetCapabilities[] = "/attnd.v1.AttentionService/GetCapabilities";
inline constexpr char kAttend[] = "/attnd.v1.AttentionService/Attend";
inline constexpr char kAttendStream[] = "/attnd.v1.AttentionService/AttendStream";
inline constexpr char kFlashAttention[] = "/attnd.v1.AttentionService/FlashAttention";
inline constexpr char kOpenCache[] = "/attnd.v1.CacheService/OpenCache";
inline constexpr char kCloseCache[] = "/attnd.v1.CacheService/CloseCache";
inline constexpr char kListCaches[] = "/attnd.v1.CacheService/ListCaches";
inline constexpr char kOpenSession[] = "/attnd.v1.SessionService/OpenSession";
inline constexpr char kResumeSession[] = "/attnd.v1.SessionService/ResumeSession";
inline constexpr char kRenewLease[] = "/attnd.v1.SessionService/RenewLease";
inline constexpr char kCloseSession[] = "/attnd.v1.SessionService/CloseSession";
inline constexpr char kCreateSequence[] = "/attnd.v1.SequenceService/CreateSequence";
inline constexpr char kForkSequence[] = "/attnd.v1.SequenceService/ForkSequence";
inline constexpr char kTruncateSequence[] = "/attnd.v1.SequenceService/TruncateSequence";
inline constexpr char kFreeSequence[] = "/attnd.v1.SequenceService/FreeSequence";
inline constexpr char kDescribeSequence[] = "/attnd.v1.SequenceService/DescribeSequence";
inline constexpr char kListSequences[] = "/attnd.v1.SequenceService/ListSequences";
inline constexpr char kSetClientState[] = "/attnd.v1.SequenceService/SetClientState";
inline constexpr char kPublishPrefix[] = "/attnd.v1.SequenceService/PublishPrefix";
inline constexpr char kMatchPrefix[] = "/attnd.v1.SequenceService/MatchPrefix";
inline constexpr char kGetStats[] = "/attnd.v1.AdminService/GetStats";
inline constexpr char kDrain[] = "/attnd.v1.AdminService/Drain";
inline constexpr char kListSessions[] = "/attnd.v1.AdminService/ListSessions";
inline constexpr char kCheckIntegrity[] = "/attnd.v1.AdminService/CheckIntegrity";
inline constexpr char kSetLogLevel[] = "/attnd.v1.AdminService/SetLogLevel";

}  // namespace attnd::client
