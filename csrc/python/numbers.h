// Looks at the numbers in tensors of the host, in less time than an operation of torch takes to
// start.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace fastmaml {

// Whether every number of an int64 tensor is one of 0..classes-1. False too of a tensor that is not
// plain (`TensorView`), or has no memory.
bool labels_within(pybind11::handle tensor, int64_t classes);

// Whether no number of a float tensor, or of a double one, is NaN; likewise.
bool is_free_of_nan(pybind11::handle tensor, bool is_double);

}  // namespace fastmaml
