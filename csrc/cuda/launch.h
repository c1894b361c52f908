// What a kernel is told: a call, and how its blocks share it.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../program/call.h"
#include "../program/workspace.h"

namespace fastmaml {

template <class Real>
struct Launch {
  Call<Real> call;
  Workspace workspace;
  const SummedGradient<Real>* summed;
  int64_t summed_count;
  int64_t chunks;  // that the tasks are taken in, each the work of one team
  Real* sums;      // a chunk's gradients, `sum_stride` numbers apart
  int64_t sum_stride;
  Real* slow;  // a team's slow memory, `slow_stride` numbers apart
  int64_t slow_stride;
  int log_lanes;   // a block's threads and
  int log_blocks;  // a team's blocks, as powers of two
  bool poison;     // for tests: memory begins as NaN
};

// visit(array, count) for every array that a launch points to and that is the host's, not a tensor.
template <class Real, class Visit>
FM_DEVICE void for_each_array(Launch<Real>& launch, Visit visit) {
  Call<Real>& call = launch.call;
  Program& program = call.program;
  const int64_t slots = program.slot_count, values = program.value_count;
  visit(program.ops, program.op_count);
  visit(program.values, values);
  visit(program.slots, slots);
  visit(call.step_weights, call.steps + 1);
  visit(call.parameters, slots);
  visit(call.rates, slots);
  visit(call.support.wanted, values);
  visit(call.query.wanted, values);
  visit(call.active, values);
  visit(call.adapted, slots);
  visit(call.adapted_bar, slots);
  visit(call.vectors, slots);
  visit(call.products, slots);
  visit(launch.summed, launch.summed_count);
}

// Makes pointers of the offsets in a copy of an image (image.h).
template <class Real>
FM_DEVICE void relocate(char* image) {
  for_each_array(*reinterpret_cast<Launch<Real>*>(image), [=](auto& array, int64_t) {
    using Pointer = std::remove_reference_t<decltype(array)>;
    if (array) array = reinterpret_cast<Pointer>(image + reinterpret_cast<size_t>(array));
  });
}

// An image as the argument of a kernel, which is one of two sizes: few programs need the larger.
template <int capacity>
struct Image {
  alignas(16) char bytes[capacity];
};
constexpr int small_image = 3968, large_image = 32000;

FM_HD constexpr int image_capacity(int64_t bytes) {
  return bytes <= small_image ? small_image : large_image;
}

}  // namespace fastmaml
