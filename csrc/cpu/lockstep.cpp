#include "lockstep.h"

#include <type_traits>

#include "../program/workspace.h"

namespace fastmaml {

template <class Real>
const char* lockstep_refusal(const Call<Real>& call) {
  if (call.support.size || call.query.size) return "tasks have samples of different numbers";
  for (const Samples<Real>* samples : {&call.support, &call.query}) {
    if (samples->x_grad || samples->target_grad || samples->weights_grad) {
      return "gradients of the samples are wanted";
    }
  }
  for (int32_t i = 0; i < call.program.op_count; ++i) {
    const Op& op = call.program.ops[i];
    switch (op.kind) {
      case OpKind::layer_norm:
      case OpKind::rms_norm:
        return "a norm is over the features of a sample";
      case OpKind::batch_norm:
        if (op.rows > 1) return "a norm is over positions";
        break;
      case OpKind::dropout:
        return "there is dropout";
      case OpKind::gram:
      case OpKind::dual:
      case OpKind::fold:
      case OpKind::folded:
        return "a layer is in the dual form";
      default:
        break;
    }
  }
  return nullptr;
}

LockstepProgram::LockstepProgram(const Program& program, int width)
    : program_(program),
      ops_(program.ops, program.ops + program.op_count),
      values_(program.values, program.values + program.value_count),
      slots_(program.slots, program.slots + program.slot_count) {
  for (Op& op : ops_) {
    op.in *= width;
    op.out *= width;
  }
  for (Value& value : values_) {
    value.sample_size *= width;
    value.task_size *= width;
    value.sample_offset *= width;
    value.task_offset *= width;
  }
  for (Slot& slot : slots_) {
    slot.size *= width;
    slot.offset *= width;
  }
  program_.tasks = width;
  program_.adapted_size *= width;
  for (Frames* frames : {&program_.support, &program_.query}) {
    for (FrameSize* size : {&frames->fixed, &frames->active}) {
      size->sample *= width;
      size->task *= width;
    }
  }
}

Program LockstepProgram::view() const {
  Program view = program_;
  view.ops = ops_.data();
  view.values = values_.data();
  view.slots = slots_.data();
  return view;
}

template <class Real>
LockstepCall<Real>::LockstepCall(const Call<Real>& call, const LockstepProgram& program,
                                 Real* memory)
    : of_task_(call.program), width_(program.view().tasks), memory_(memory), call_(call) {
  call_.program = program.view();
  call_.tasks = 1;
  call_.output_size *= width_;
  call_.support = samples(call.support);
  call_.query = samples(call.query);
  call_.summed_size = 0;
  for (int32_t slot = 0; slot < of_task_.slot_count; ++slot) {
    Parameter<Real> parameter = call.parameters[slot];
    const int64_t size = of_task_.slots[slot].size;
    if (parameter.per_task) {
      parameter.data = together(inputs, parameter.data, size);
      parameter.task_grad = together(gradients, parameter.task_grad, size);
    } else if (!of_task_.slots[slot].adapted) {
      parameter.data = together(shared, parameter.data, size);
      parameter.grad = sum(parameter.grad, size, true);
    }  // else the inner loop spreads it, and sums its gradient
    parameters_.push_back(parameter);

    Rate<Real> rate = call.rates[slot];
    const bool is_by_element = rate.elements > 1;
    const int64_t numbers = rate.rows * rate.elements;
    if (is_by_element) {
      rate.data = together(shared, rate.data, numbers);
      rate.elements *= width_;
    }
    rate.grad = sum(rate.grad, numbers, is_by_element);
    rates_.push_back(rate);
  }
  call_.parameters = parameters_.data();
  call_.rates = rates_.data();
  const int64_t prediction = call.query.count * call.output_size;
  call_.task_loss = together(results, call.task_loss, 1);
  call_.prediction = together(results, call.prediction, prediction);
  call_.adapted = together_by_slot(results, call.adapted, adapted_);
  call_.task_loss_bar = together(cotangents, call.task_loss_bar, 1);
  call_.prediction_bar = together(cotangents, call.prediction_bar, prediction);
  call_.adapted_bar = together_by_slot(cotangents, call.adapted_bar, adapted_bar_);
  call_.vectors = together_by_slot(inputs, call.vectors, vectors_);
  call_.products = together_by_slot(results, call.products, products_);
  sums_size = call_.summed_size;
  if (sums_size) sums = place(call.parameters->data, sums_size);
}

template <class Real>
Samples<Real> LockstepCall<Real>::samples(const Samples<Real>& of_tasks) {
  Samples<Real> samples = of_tasks;
  const int64_t output = of_task_.values[of_task_.output].sample_size;
  samples.x = together(inputs, samples.x, samples.count * of_task_.values[0].sample_size);
  samples.labels = together(labels, samples.labels, samples.count);
  samples.target = together(inputs, samples.target, samples.count * output);
  samples.weights = together(inputs, samples.weights, samples.count);
  return samples;
}

// So many numbers of the memory; what is there already while there is none.
template <class Real>
Real* LockstepCall<Real>::place(const Real* tensor, int64_t numbers) {
  const int64_t begin = used_;
  used_ += aligned(numbers);
  return memory_ ? memory_ + begin : const_cast<Real*>(tensor);
}

// The place of a tensor's numbers for one group; null where there is no tensor.
template <class Real>
template <class T>
std::remove_const_t<T>* LockstepCall<Real>::together(std::vector<Together<T>>& list, T* tensor,
                                                     int64_t size) {
  if (!tensor) return nullptr;
  constexpr int64_t numbers_each = (sizeof(T) + sizeof(Real) - 1) / sizeof(Real);
  const Real* as_numbers = reinterpret_cast<const Real*>(tensor);
  auto* group =
      reinterpret_cast<std::remove_const_t<T>*>(place(as_numbers, size * width_ * numbers_each));
  list.push_back({tensor, size, group});
  return group;
}

template <class Real>
template <class T>
T* const* LockstepCall<Real>::together_by_slot(std::vector<Together<T>>& list, T* const* tensors,
                                               std::vector<T*>& storage) {
  if (!tensors) return nullptr;
  for (int32_t slot = 0; slot < of_task_.slot_count; ++slot) {
    storage.push_back(together(list, tensors[slot], of_task_.slots[slot].size));
  }
  return storage.data();
}

// The offset of a gradient's sums over groups; -1 where it is not wanted.
template <class Real>
int64_t LockstepCall<Real>::sum(int64_t offset, int64_t size, bool is_together) {
  if (offset < 0) return -1;
  const int64_t begin = call_.summed_size;
  summed.push_back({offset, size, begin, is_together});
  call_.summed_size += aligned(size * (is_together ? width_ : 1));
  return begin;
}

#define FM_INSTANTIATE(Real)                                \
  template const char* lockstep_refusal(const Call<Real>&); \
  template class LockstepCall<Real>;
FM_INSTANTIATE(float)
FM_INSTANTIATE(double)
#undef FM_INSTANTIATE

}  // namespace fastmaml
