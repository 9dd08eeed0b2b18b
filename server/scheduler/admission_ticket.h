// SPDX-License-Identifier: Apache-2.0
//
// A share of the queue's bounded capacity, held by one request until its answer is on its way.
//
// Move-only; returns what it holds when destroyed, from any thread.
#pragma once

#include <cstdint>
#include <utility>

#include "kv_cache/access.h"

namespace attnd {

// Of one tenant's requests.
struct QueueCost {
  TenantIndex tenant{};
  int64_t requests = 0;
  int64_t items = 0;
  int64_t tokens = 0;
};

class TicketIssuer {
 public:
  virtual void Return(const QueueCost& cost) = 0;

 protected:
  ~TicketIssuer() = default;
};

class AdmissionTicket {
 public:
  AdmissionTicket() = default;
  AdmissionTicket(TicketIssuer* issuer, const QueueCost& cost) : issuer_(issuer), cost_(cost) {}
  AdmissionTicket(AdmissionTicket&& other) noexcept { *this = std::move(other); }
  AdmissionTicket& operator=(AdmissionTicket&& other) noexcept {
    if (this != &other) {
      Release();
      issuer_ = std::exchange(other.issuer_, nullptr);
      cost_ = other.cost_;
    }
    return *this;
  }
  ~AdmissionTicket() { Release(); }

  void Release() {
    if (issuer_ != nullptr) std::exchange(issuer_, nullptr)->Return(cost_);
  }

 private:
  TicketIssuer* issuer_ = nullptr;
  QueueCost cost_;
};

}  // namespace attnd
