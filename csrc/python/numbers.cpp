#include "numbers.h"

#include <cmath>

#include "tensor_view.h"

namespace fastmaml {
namespace py = pybind11;
namespace {

template <class T, class Function>
bool plain_and(py::handle tensor, Function holds) {
  try {
    const TensorView view(tensor.ptr());
    if (!view.is_plain()) return false;
    int64_t count = 1;
    for (int axis = 0; axis < view.rank(); ++axis) count *= view.shape()[axis];
    return holds(reinterpret_cast<const T*>(view.address()), count);
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;  // Ctrl-C
    return false;
  }
}

template <class Real>
bool is_free_of_nan(py::handle tensor) {
  return plain_and<Real>(tensor, [](const Real* numbers, int64_t count) {
    bool found = false;
    for (int64_t i = 0; i < count; ++i) found |= std::isnan(numbers[i]);
    return !found;
  });
}

}  // namespace

bool labels_within(py::handle tensor, int64_t classes) {
  return plain_and<uint64_t>(tensor, [classes](const uint64_t* labels, int64_t count) {
    // the sign bit of one of the two is set where a label is outside: vector code, unlike bounds
    uint64_t signs = 0;
    const uint64_t last = static_cast<uint64_t>(classes) - 1;
    for (int64_t i = 0; i < count; ++i) signs |= labels[i] | (last - labels[i]);
    return signs >> 63 == 0;
  });
}

bool is_free_of_nan(py::handle tensor, bool is_double) {
  return is_double ? is_free_of_nan<double>(tensor) : is_free_of_nan<float>(tensor);
}

}  // namespace fastmaml
