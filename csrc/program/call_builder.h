// Builds a Call from what the Python side says of it: addresses, sizes and flags.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "../cpu/executor.h"
#include "analysis.h"
#include "call.h"

namespace fastmaml {

using Address = std::uintptr_t;  // of a tensor's first number; 0: no tensor

// What Python fills in, field by field; see Call for the meaning.
struct SamplesArgument {
  int64_t count = 0;
  std::optional<std::vector<int64_t>> size;
  Address x = 0, labels = 0, target = 0, weights = 0;
  Address x_grad = 0, target_grad = 0, weights_grad = 0;
};

struct ParameterArgument {
  Address data = 0;
  bool per_task = false;
  Address grad = 0;
};

struct RateArgument {
  Address data = 0;
  int64_t rows = 1;
  int64_t elements = 1;
  Address grad = 0;
};

struct CallArgument {
  int64_t tasks = 0;
  int64_t steps = 0;
  double momentum = 0;
  std::vector<double> step_weights;
  bool first_order = false;
  uint32_t seed = 0;
  std::vector<ParameterArgument> parameters;
  std::vector<RateArgument> rates;
  SamplesArgument support, query;
  Address task_loss = 0, prediction = 0;
  std::vector<Address> adapted;
  bool differentiate = false, through_steps = false;
  Address task_loss_bar = 0, prediction_bar = 0;
  std::vector<Address> adapted_bar;
  std::vector<Address> vectors, products;
};

// A Call and the arrays that it points to. `argument` must outlive it.
template <class Real>
class CallOwner {
 public:
  CallOwner(const ProgramOwner& program, const CallArgument& argument);

  const Call<Real>& call() const { return call_; }
  const std::vector<SummedGradient<Real>>& summed() const { return summed_; }

 private:
  void add_parameters(const CallArgument& argument);
  void add_rates(const CallArgument& argument);
  int64_t add_summed(Address gradient, int64_t size);
  void decide_what_is_kept(const CallArgument& argument);

  Call<Real> call_{};
  std::vector<Parameter<Real>> parameters_;
  std::vector<Rate<Real>> rates_;
  std::vector<SummedGradient<Real>> summed_;
  std::vector<uint8_t> active_, support_wanted_, query_wanted_;
  std::vector<Real*> adapted_, products_;
  std::vector<const Real*> adapted_bar_, vectors_;
};

}  // namespace fastmaml
