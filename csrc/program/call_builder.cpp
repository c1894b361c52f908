#include "call_builder.h"

#include <algorithm>
#include <cstddef>

namespace fastmaml {
namespace {

// Where there is no budget, activations are kept up to this size a team, of the last steps. Those
// of the others are computed again in the adjoint, a third more arithmetic.
constexpr int64_t tape_memory = int64_t{64} << 20;

}  // namespace

std::vector<Address> any_addresses(int64_t tensors) {
  std::vector<Address> addresses(tensors, alignof(std::max_align_t));
  addresses[0] = 0;
  return addresses;
}

template <class Real>
CallOwner<Real>::CallOwner(const ProgramOwner& program, const CallArgument& a,
                           const std::vector<Address>& addresses, uint32_t seed)
    : addresses_(addresses.data()) {
  call_.program = program.view();
  call_.tasks = a.tasks;
  call_.steps = a.steps;
  call_.momentum = a.momentum;
  call_.step_weights = a.step_weights.data();
  call_.weighs_steps = a.steps > 0 && std::any_of(a.step_weights.begin(), a.step_weights.end() - 1,
                                                  [](double weight) { return weight != 0; });
  call_.first_order = a.first_order;
  call_.seed = seed;
  add_parameters(a);
  add_rates(a);
  std::vector<bool> shared_wanted;
  for (size_t slot = 0; slot < parameters_.size(); ++slot) {
    shared_wanted.push_back(!call_.program.slots[slot].adapted && a.parameters[slot].grad);
  }
  active_ = program.wanted(false, std::vector<bool>(shared_wanted.size()));
  support_wanted_ = program.wanted(a.support.x_grad, shared_wanted);
  query_wanted_ = program.wanted(a.query.x_grad, shared_wanted);
  call_.support = samples(a.support, support_wanted_);
  call_.query = samples(a.query, query_wanted_);
  call_.active = active_.data();
  call_.output_size = program.output_size();
  call_.task_loss = pointer<Real>(a.task_loss);
  call_.prediction = pointer<Real>(a.prediction);
  call_.adapted = pointers(a.adapted, adapted_);
  call_.differentiate = a.differentiate;
  call_.through_steps = a.through_steps;
  call_.task_loss_bar = pointer<const Real>(a.task_loss_bar);
  call_.prediction_bar = pointer<const Real>(a.prediction_bar);
  call_.adapted_bar = pointers(a.adapted_bar, adapted_bar_);
  call_.vectors = pointers(a.vectors, vectors_);
  call_.products = pointers(a.products, products_);
  decide_what_is_kept(a);
}

template <class Real>
template <class T>
T* const* CallOwner<Real>::pointers(const std::vector<Ref>& tensors,
                                    std::vector<T*>& storage) const {
  for (const Ref tensor : tensors) storage.push_back(pointer<T>(tensor));
  return storage.empty() ? nullptr : storage.data();
}

template <class Real>
Samples<Real> CallOwner<Real>::samples(const SamplesArgument& a,
                                       const std::vector<uint8_t>& wanted) const {
  return {a.count,
          a.size_on_device ? pointer<const int64_t>(a.size_on_device)
          : a.size         ? a.size->data()
                           : nullptr,
          pointer<const Real>(a.x),
          pointer<const int64_t>(a.labels),
          pointer<const Real>(a.target),
          pointer<const Real>(a.weights),
          pointer<Real>(a.x_grad),
          pointer<Real>(a.target_grad),
          pointer<Real>(a.weights_grad),
          wanted.data()};
}

template <class Real>
void CallOwner<Real>::add_parameters(const CallArgument& a) {
  for (size_t slot = 0; slot < a.parameters.size(); ++slot) {
    const ParameterArgument& p = a.parameters[slot];
    parameters_.push_back({pointer<const Real>(p.data), p.per_task,
                           p.per_task ? pointer<Real>(p.grad) : nullptr,
                           p.per_task ? -1 : add_summed(p.grad, call_.program.slots[slot].size)});
  }
  call_.parameters = parameters_.data();
}

template <class Real>
void CallOwner<Real>::add_rates(const CallArgument& a) {
  for (const RateArgument& r : a.rates) {
    rates_.push_back(
        {pointer<const Real>(r.data), r.rows, r.elements, add_summed(r.grad, r.rows * r.elements)});
  }
  call_.rates = rates_.data();
}

template <class Real>
int64_t CallOwner<Real>::add_summed(Ref gradient, int64_t size) {
  if (!gradient) return -1;
  const int64_t offset = call_.summed_size;
  summed_.push_back({pointer<Real>(gradient), offset, size});
  call_.summed_size += size;
  return offset;
}

template <class Real>
void CallOwner<Real>::decide_what_is_kept(const CallArgument& a) {
  const bool adjoint = call_.differentiate && call_.through_steps;
  const bool rate_wanted = std::any_of(rates_.begin(), rates_.end(),
                                       [](const Rate<Real>& rate) { return rate.grad >= 0; });
  call_.keep_phi = adjoint && (!call_.first_order || call_.weighs_steps);
  call_.keep_states = adjoint && rate_wanted;
  // With one number as the rate of a slot, a step is phi + (-rate) y_bar^T x.
  bool is_one_number = true, is_one_rate = true;
  const Rate<Real>* first = nullptr;
  bool others_wanted = false;
  for (size_t slot = 0; slot < rates_.size(); ++slot) {
    const Rate<Real>& rate = rates_[slot];
    if (!call_.program.slots[slot].adapted) {
      others_wanted |= a.parameters[slot].grad != 0;
      continue;
    }
    if (!first) first = &rate;
    is_one_number &= rate.elements == 1;
    is_one_rate &= rate.data == first->data && rate.rows == first->rows;
  }
  const bool samples_wanted = a.support.x_grad || a.support.target_grad || a.support.weights_grad;
  call_.fuse_step = call_.momentum == 0 && !call_.keep_states && is_one_number;
  call_.fuse_adjoint = adjoint && !call_.first_order && call_.fuse_step && is_one_rate &&
                       !others_wanted && !samples_wanted;
  // A fold leaves out the coefficients of samples that are padding.
  const Program& program = call_.program;
  call_.query_starts_v =
      a.adapted_bar.empty() && std::none_of(program.ops, program.ops + program.op_count,
                                            [](const Op& op) { return op.kind == OpKind::fold; });
  call_.segment = std::max<int64_t>(a.steps, 1);
  const int64_t tape =
      2 * int64_t{sizeof(Real)} * call_.program.support.active.of(call_.support.count);
  const bool is_read = adjoint && !call_.first_order, has_limit = !a.memory_budget && tape > 0;
  const int64_t most =
      has_limit ? std::clamp<int64_t>(tape_memory / tape, 1, call_.segment) : call_.segment;
  call_.tape_steps = is_read ? most : 0;
  call_.memory_budget = a.memory_budget.value_or(Call<Real>::no_budget);
}

template class CallOwner<float>;
template class CallOwner<double>;

}  // namespace fastmaml
