// Whether what was read of a model's modules is still so.
#pragma once

#include <pybind11/pybind11.h>

namespace fastmaml {

// Whether the facts hold, those that `fastmaml.program.facts` describes, where the same loop is in
// Python. `freeze` is its function of a container.
bool facts_hold(const pybind11::tuple& facts, const pybind11::function& freeze);

}  // namespace fastmaml
