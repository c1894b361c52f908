// A call as one piece of memory: the launch of a kernel carries it as an argument, and each block
// copies it to shared memory. So a call allocates and copies nothing on the device, and a CUDA
// graph that captured it holds it.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "../program/call.h"
#include "../program/call_builder.h"
#include "../program/workspace.h"

namespace fastmaml {

// What a block is told.
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

// A launch and its arrays, one after the other; pointers to arrays are offsets from the beginning.
template <class Real>
std::vector<char> make_image(Launch<Real> launch) {
  constexpr size_t alignment = 16;
  const auto aligned = [](size_t size) { return (size + alignment - 1) / alignment * alignment; };
  std::vector<char> image(aligned(sizeof launch));
  for_each_array(launch, [&](auto& array, int64_t count) {
    if (!array) return;
    const size_t begin = image.size(), bytes = count * sizeof *array;
    image.resize(aligned(begin + bytes));
    std::memcpy(image.data() + begin, array, bytes);
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(begin);
  });
  std::memcpy(image.data(), &launch, sizeof launch);
  return image;
}

// Makes pointers of the offsets in a copy of an image.
template <class Real>
FM_DEVICE void relocate(char* image) {
  for_each_array(*reinterpret_cast<Launch<Real>*>(image), [=](auto& array, int64_t) {
    using Pointer = std::remove_reference_t<decltype(array)>;
    if (array) array = reinterpret_cast<Pointer>(image + reinterpret_cast<size_t>(array));
  });
}

}  // namespace fastmaml
