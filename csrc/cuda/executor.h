// Runs a call over all its tasks on a GPU: one launch for the tasks, each the work of a thread
// block or of a cluster of them, and one for the gradients that are summed over them. Neither
// allocates nor waits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "../program/analysis.h"
#include "../program/call_builder.h"

namespace fastmaml {

// Why this process cannot run on the device; empty if it can.
std::string device_refusal(int device);

// How calls of one description run on one device: decided once.
struct LaunchPlan {
  int device;
  int log_lanes;        // threads a block, and
  int log_blocks;       // blocks a task, as powers of two
  int scratch_size;     // numbers of scratch memory
  int64_t fast_size;    // numbers of a task that lie in shared memory
  int64_t slow_size;    // and those that do not
  int image_bytes;      // of the call's description
  int shared_bytes;     // of a block, all in all
  int blocks_together;  // on one multiprocessor
  int64_t teams;        // tasks at a time
  int64_t chunks;       // of tasks
  int64_t sum_stride;   // numbers between the gradients of two chunks
  int64_t workspace;    // numbers that a call needs in the device's memory

  int lanes() const { return 1 << log_lanes; }
  int blocks_a_task() const { return 1 << log_blocks; }
};

// `tensors`: how many entries the table of addresses has. Throws std::runtime_error where it does
// not fit, or the device fails.
template <class Real>
LaunchPlan plan_launch(const ProgramOwner& program, const CallArgument& argument, int64_t tensors,
                       int device);

// A kernel that was compiled for the calls of one plan (source.h). It must outlive their runs.
class CompiledKernel {
 public:
  // `binary`: a cubin of the device's architecture. Throws std::runtime_error where it is none.
  CompiledKernel(int device, const std::string& binary);
  ~CompiledKernel();
  CompiledKernel(const CompiledKernel&) = delete;
  CompiledKernel& operator=(const CompiledKernel&) = delete;

  const void* kernel() const { return kernel_; }

 private:
  void* library_;
  const void* kernel_;
};

// The architecture that a device's kernels are compiled for: "sm_90".
std::string architecture(int device);

// Puts the call on the stream. `workspace` is memory of the device, plan.workspace numbers of it.
// `compiled`: the kernel to use in the place of the one for all calls; may be null.
template <class Real>
void run(const LaunchPlan& plan, const CompiledKernel* compiled, const ProgramOwner& program,
         const CallArgument& argument, const std::vector<Address>& addresses, uint32_t seed,
         Address workspace, Address stream);

}  // namespace fastmaml
