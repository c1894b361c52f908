// Builds a Call from what the Python side says of it: tensors, sizes and flags.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "analysis.h"
#include "call.h"

namespace fastmaml {

using Address = std::uintptr_t;  // of a tensor's first number; 0: no tensor

// A tensor of a call, as its index in the call's table of addresses. Entry 0 of the table is 0, so
// that index 0 means no tensor.
using Ref = int32_t;

// What Python fills in, field by field, once for all calls of the same shapes; see Call for the
// meaning.
struct SamplesArgument {
  int64_t count = 0;
  std::optional<std::vector<int64_t>> size;
  Ref size_on_device = 0;  // the same as a tensor, where the host's memory cannot be read
  Ref x = 0, labels = 0, target = 0, weights = 0;
  Ref x_grad = 0, target_grad = 0, weights_grad = 0;
};

struct ParameterArgument {
  Ref data = 0;
  bool per_task = false;
  Ref grad = 0;
};

struct RateArgument {
  Ref data = 0;
  int64_t rows = 1;
  int64_t elements = 1;
  Ref grad = 0;
};

struct CallArgument {
  int64_t tasks = 0;
  int64_t steps = 0;
  std::optional<int64_t> memory_budget;
  double momentum = 0;
  std::vector<double> step_weights;
  bool first_order = false;
  std::vector<ParameterArgument> parameters;
  std::vector<RateArgument> rates;
  SamplesArgument support, query;
  Ref task_loss = 0, prediction = 0;
  std::vector<Ref> adapted;
  bool differentiate = false, through_steps = false;
  Ref task_loss_bar = 0, prediction_bar = 0;
  std::vector<Ref> adapted_bar;
  std::vector<Ref> vectors, products;
};

// A table of addresses for a call that is not run: any will do, what counts is which tensors there
// are.
std::vector<Address> any_addresses(int64_t tensors);

// A Call and the arrays that it points to. `argument` must outlive it, the table of addresses need
// not.
template <class Real>
class CallOwner {
 public:
  CallOwner(const ProgramOwner& program, const CallArgument& argument,
            const std::vector<Address>& addresses, uint32_t seed);

  const Call<Real>& call() const { return call_; }
  const std::vector<SummedGradient<Real>>& summed() const { return summed_; }

 private:
  template <class T>
  T* pointer(Ref tensor) const {
    return reinterpret_cast<T*>(addresses_[tensor]);
  }
  template <class T>
  T* const* pointers(const std::vector<Ref>& tensors, std::vector<T*>& storage) const;
  Samples<Real> samples(const SamplesArgument& argument, const std::vector<uint8_t>& wanted) const;
  void add_parameters(const CallArgument& argument);
  void add_rates(const CallArgument& argument);
  int64_t add_summed(Ref gradient, int64_t size);
  void decide_what_is_kept(const CallArgument& argument);

  const Address* addresses_;  // while it is being built
  Call<Real> call_{};
  std::vector<Parameter<Real>> parameters_;
  std::vector<Rate<Real>> rates_;
  std::vector<SummedGradient<Real>> summed_;
  std::vector<uint8_t> active_, support_wanted_, query_wanted_;
  std::vector<Real*> adapted_, products_;
  std::vector<const Real*> adapted_bar_, vectors_;
};

}  // namespace fastmaml
