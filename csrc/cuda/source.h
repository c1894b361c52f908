// The source of a kernel that is compiled for one call (compiled.cuh), for NVRTC.
#pragma once

#include <string>

#include "executor.h"

namespace fastmaml {

// What the kernel knows of the call, among the headers of the program, all in one text. It names no
// tensor: calls of the same shapes and plan have one source. `tensors`: see plan_launch.
std::string compiled_source(const LaunchPlan& plan, const ProgramOwner& program,
                            const CallArgument& argument, int64_t tensors, bool is_double);

}  // namespace fastmaml
