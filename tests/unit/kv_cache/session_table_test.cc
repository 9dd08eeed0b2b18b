// SPDX-License-Identifier: Apache-2.0
#include "kv_cache/session_table.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "tests/unit/kv_cache/cache_fixture.h"

namespace attnd {
namespace {

constexpr Duration kDefaultLease = std::chrono::minutes(5);
constexpr Duration kMaxLease = std::chrono::hours(1);

class SessionTableTest : public testing::Test {
 protected:
  SessionGrant Open(Duration lease = Duration::zero()) {
    return sessions_.Open(lease, "x").value();
  }

  FakeClock clock_;
  SessionTable sessions_{
      {.boot = 9, .max_sessions = 100, .default_lease = kDefaultLease, .max_lease = kMaxLease},
      clock_};
};

TEST_F(SessionTableTest, TokensAre16BytesAndAllDifferent) {
  std::set<std::string> tokens;
  for (int i = 0; i < 100; ++i) {
    const SessionGrant grant = Open();
    EXPECT_EQ(grant.token.size(), 16u);
    EXPECT_EQ(grant.ref.epoch, 1u);
    EXPECT_TRUE(tokens.insert(grant.token).second);
  }
}

TEST_F(SessionTableTest, LeaseZeroIsTheDefaultAndLongOnesAreCut) {
  EXPECT_EQ(Open().lease, kDefaultLease);
  EXPECT_EQ(Open(std::chrono::seconds(1)).lease, std::chrono::seconds(1));
  EXPECT_EQ(Open(Duration::max()).lease, kMaxLease);
  ATTND_EXPECT_CODE(sessions_.Open(Duration(-1), "x").status(), kInvalidArgument);
}

TEST_F(SessionTableTest, LabelBeyond128BytesIsInvalid) {
  EXPECT_TRUE(sessions_.Open(Duration::zero(), std::string(128, 'l')).ok());
  ATTND_EXPECT_CODE(sessions_.Open(Duration::zero(), std::string(129, 'l')).status(),
                    kInvalidArgument);
}

TEST_F(SessionTableTest, TooManySessionsAreRefusedUntilOneEnds) {
  const SessionRef first = Open().ref;
  for (int i = 1; i < 100; ++i) Open();
  ATTND_EXPECT_CODE(sessions_.Open(Duration::zero(), "x").status(), kResourceExhausted);
  sessions_.Erase(first.session);
  EXPECT_TRUE(sessions_.Open(Duration::zero(), "x").ok());
}

TEST_F(SessionTableTest, ResumeRaisesTheEpochAndReplacesTheToken) {
  const SessionGrant first = Open();
  const SessionGrant second = sessions_.Resume(first.token, Duration::zero()).value();
  EXPECT_EQ(second.ref.session, first.ref.session);
  EXPECT_EQ(second.ref.epoch, 2u);
  EXPECT_NE(second.token, first.token);
  ASSERT_TRUE(sessions_.Authorize(second.ref).ok());
  ATTND_EXPECT_CODE(sessions_.Resume(first.token, Duration::zero()).status(), kNotFound);
  EXPECT_EQ(sessions_.Resume(second.token, Duration::zero())->ref.epoch, 3u);
}

TEST_F(SessionTableTest, TokenThatWasSentResumesAgainUntilTheNewEpochIsUsed) {
  const SessionGrant first = Open();
  const SessionGrant lost = sessions_.Resume(first.token, Duration::zero()).value();
  const SessionGrant second = sessions_.Resume(first.token, Duration::zero()).value();
  EXPECT_EQ(second.ref.epoch, 3u);
  ATTND_EXPECT_CODE(sessions_.Authorize(lost.ref).status(), kAborted);
  ATTND_EXPECT_CODE(sessions_.Resume(lost.token, Duration::zero()).status(), kNotFound);

  // Looking with the epoch is no use of it.
  ASSERT_TRUE(sessions_.FindWithEpoch(second.ref).ok());
  const SessionGrant third = sessions_.Resume(second.token, Duration::zero()).value();
  EXPECT_EQ(third.ref.epoch, 4u);
  ATTND_EXPECT_CODE(sessions_.Resume(first.token, Duration::zero()).status(), kNotFound);

  sessions_.Erase(third.ref.session);
  ATTND_EXPECT_CODE(sessions_.Resume(second.token, Duration::zero()).status(), kNotFound);
  ATTND_EXPECT_CODE(sessions_.Resume(third.token, Duration::zero()).status(), kNotFound);
}

TEST_F(SessionTableTest, ResumeKeepsTheLeaseUnlessToldOtherwise) {
  const SessionGrant first = Open(std::chrono::seconds(10));
  const SessionGrant second = sessions_.Resume(first.token, Duration::zero()).value();
  EXPECT_EQ(second.lease, std::chrono::seconds(10));
  EXPECT_EQ(sessions_.Resume(second.token, std::chrono::seconds(3))->lease,
            std::chrono::seconds(3));
}

TEST_F(SessionTableTest, RefusedResumeChangesNothing) {
  const SessionGrant grant = Open();
  ATTND_EXPECT_CODE(sessions_.Resume(grant.token, Duration(-1)).status(), kInvalidArgument);
  EXPECT_TRUE(sessions_.Authorize(grant.ref).ok());
  EXPECT_TRUE(sessions_.Resume(grant.token, Duration::zero()).ok());
}

TEST_F(SessionTableTest, UnknownTokensAreNotFoundAndNotRepeated) {
  const SessionGrant grant = Open();
  for (const std::string& token : {std::string(), std::string("SECRET"), std::string(16, 'S'),
                                   grant.token + "x", grant.token.substr(0, 15)}) {
    const absl::Status status = sessions_.Resume(token, Duration::zero()).status();
    ATTND_EXPECT_CODE(status, kNotFound);
    EXPECT_EQ(status.message().find('S'), std::string::npos);
  }
}

TEST_F(SessionTableTest, TokenIsNotStored) {
  const SessionGrant grant = Open();
  const Session& session = *sessions_.Find(grant.ref.session);
  EXPECT_NE(std::string(session.token_hash.begin(), session.token_hash.begin() + 16), grant.token);
}

TEST_F(SessionTableTest, EpochsDecideWhoIsHeard) {
  const SessionGrant first = Open();
  const SessionGrant second = sessions_.Resume(first.token, Duration::zero()).value();
  const absl::Status superseded = sessions_.Authorize(first.ref).status();
  ATTND_EXPECT_CODE(superseded, kAborted);
  EXPECT_EQ(GetErrorDetail(superseded)->reason, ErrorReason::kSuperseded);
  EXPECT_TRUE(sessions_.Authorize(second.ref).ok());
  ATTND_EXPECT_CODE(sessions_.Authorize({.session = second.ref.session, .epoch = 3}).status(),
                    kInvalidArgument);
}

TEST_F(SessionTableTest, AuthorizedCallsRenewTheLeaseAndOthersDoNot) {
  const SessionGrant grant = Open();
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(kDefaultLease - Duration(1));
    ASSERT_TRUE(sessions_.Authorize(grant.ref).ok());
  }
  clock_.Advance(kDefaultLease - Duration(1));
  EXPECT_FALSE(sessions_.Authorize({.session = grant.ref.session, .epoch = 7}).ok());
  EXPECT_TRUE(sessions_.FindWithEpoch(grant.ref).ok());
  clock_.Advance(Duration(1));
  ATTND_EXPECT_CODE(sessions_.Authorize(grant.ref).status(), kNotFound);
}

TEST_F(SessionTableTest, ExpiredSessionIsNotFoundUntilItIsClosed) {
  const SessionGrant grant = Open();
  EXPECT_TRUE(sessions_.Expired().empty());
  clock_.Advance(kDefaultLease);
  ATTND_EXPECT_CODE(sessions_.Authorize(grant.ref).status(), kNotFound);
  ATTND_EXPECT_CODE(sessions_.Resume(grant.token, Duration::zero()).status(), kNotFound);
  ASSERT_EQ(sessions_.Expired().size(), 1u);
  EXPECT_EQ(sessions_.Expired()[0].session, grant.ref.session);
  EXPECT_EQ(sessions_.Expired()[0].epoch, 1u);
  EXPECT_TRUE(sessions_.FindWithEpoch(grant.ref).ok());
  sessions_.Erase(grant.ref.session);
  EXPECT_TRUE(sessions_.Expired().empty());
  ATTND_EXPECT_CODE(sessions_.FindWithEpoch(grant.ref).status(), kNotFound);
}

}  // namespace
}  // namespace attnd
