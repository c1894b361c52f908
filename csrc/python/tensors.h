// From the tensors of Python to a call's table of addresses.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "tensor_view.h"

namespace fastmaml {

// None, then the addresses of `tensors` in their order. Of one that is not plain (`TensorView`),
// the address of a copy that is.
class Tensors {
 public:
  explicit Tensors(const pybind11::list& tensors) {
    addresses_.reserve(1 + tensors.size());
    addresses_.push_back(0);
    for (const pybind11::handle tensor : tensors) {
      const TensorView view(tensor.ptr());
      addresses_.push_back(view.is_plain() ? view.address() : address_of_copy(tensor));
    }
  }

  const std::vector<Address>& addresses() const { return addresses_; }

 private:
  Address address_of_copy(pybind11::handle tensor) {
    copies_.push_back(tensor.attr("resolve_neg")().attr("contiguous")());
    return TensorView(copies_.back().ptr()).address();
  }

  std::vector<Address> addresses_;
  std::vector<pybind11::object> copies_;
};

}  // namespace fastmaml
