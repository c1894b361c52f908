// A call as one piece of memory: the launch of a kernel carries it as an argument, and each block
// copies it to shared memory. So a call allocates and copies nothing on the device, and a CUDA
// graph that captured it holds it.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "launch.h"

namespace fastmaml {

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

}  // namespace fastmaml
