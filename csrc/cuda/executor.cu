#include "executor.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <optional>
#include <stdexcept>

#include "image.h"
#include "kernels.cuh"

namespace fastmaml {
namespace {

using namespace cuda;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next call would find it
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

// Makes a device the current one for as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "no device");
    if (before_ != device) check(cudaSetDevice(device), "no such device");
    device_ = device;
  }
  ~DeviceGuard() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_, device_;
};

int attribute(cudaDeviceAttr which, int device) {
  int value;
  check(cudaDeviceGetAttribute(&value, which, device), "a device's attribute");
  return value;
}

// For trying out what the plan decides.
std::optional<int64_t> from_environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? std::optional<int64_t>(std::atoll(value)) : std::nullopt;
}

int log_of(int64_t power_of_two) { return std::countr_zero(static_cast<uint64_t>(power_of_two)); }

// Chunks of tasks, each with gradients of its own, that are then added up. The number depends on
// the call alone, not on the device, so that the order of summation does too.
constexpr int64_t most_chunks = 1024, least_of_most_chunks = 128;
constexpr int64_t most_sums = int64_t{256} << 20;  // bytes

// Blocks of a cluster: what the hardware takes at most.
constexpr int most_log_blocks = 4;

template <class Real>
int64_t chunks_of(const Call<Real>& call) {
  const int64_t bytes = std::max<int64_t>(call.summed_size * sizeof(Real), 1);
  const int64_t most = std::clamp(most_sums / bytes, least_of_most_chunks, most_chunks);
  return std::min(call.tasks, most);
}

template <class Real>
int64_t most_samples(const Call<Real>& call) {
  return std::max(call.support.count, call.query.x ? call.query.count : 0);
}

// Elements that the widest op computes.
template <class Real>
int64_t widest_op(const Call<Real>& call) {
  int64_t widest = 0;
  for (int32_t i = 0; i < call.program.op_count; ++i) {
    const Op& op = call.program.ops[i];
    widest = std::max(widest, op.rows * op.out * most_samples(call));
  }
  return widest;
}

// Multiply-adds of the longest product.
template <class Real>
int64_t longest_product(const Call<Real>& call) {
  int64_t longest = 0;
  for (int32_t i = 0; i < call.program.op_count; ++i) {
    const Op& op = call.program.ops[i];
    if (multiplies(op.kind))
      longest = std::max(longest, op.rows * op.in * op.out * most_samples(call));
  }
  return longest;
}

// Products count their tiles of 16 elements in float (team/block_product.h).
template <class Real>
void check_sizes(const Call<Real>& call) {
  constexpr int64_t most = int64_t{1} << 26;
  for (int32_t i = 0; i < call.program.op_count; ++i) {
    const Op& op = call.program.ops[i];
    const int64_t numbers =
        std::max(op.in * op.out, op.rows * std::max(op.in, op.out) * most_samples(call));
    if (numbers > most) {
      throw std::runtime_error("CUDA: an op of " + std::to_string(numbers) +
                               " numbers a task, and the kernels count no further than " +
                               std::to_string(most));
    }
  }
}

constexpr int least_log_lanes = 6;

// As many lanes as the longest product and the widest op can feed; many would wait for each other
// in a small program, and small blocks share a multiprocessor better where there are many tasks.
int log_lanes_for(int64_t widest, int64_t longest, int64_t chunks, int multiprocessors) {
  if (const auto forced = from_environment("FASTMAML_LANES")) return log_of(*forced);
  const bool are_many = chunks >= 4 * multiprocessors;
  if (widest >= 4096 || (longest >= 131072 && !are_many)) return 9;
  if (widest >= 2048 || (longest >= 8192 && !are_many)) return 8;
  return widest >= 256 && !are_many ? 7 : least_log_lanes;
}

// Several blocks a task where there are fewer tasks than multiprocessors and work for them all; not
// more than the device has room for in a cluster.
int log_blocks_for(int64_t widest, int64_t teams, int multiprocessors, int most) {
  if (const auto forced = from_environment("FASTMAML_BLOCKS"))
    return std::min(log_of(*forced), most);
  int log_blocks = 0;
  while (log_blocks < most && teams << (log_blocks + 1) <= multiprocessors &&
         int64_t{4096} << (log_blocks + 1) <= widest) {
    ++log_blocks;
  }
  return log_blocks;
}

// Room for two strips, so deep that a small product needs but one.
int scratch_for(int log_lanes) {
  return log_lanes >= 9 ? 8192 : log_lanes == 8 ? 6144 : log_lanes == 7 ? 4096 : 2048;
}

template <class Real>
Launch<Real> launch_of(const CallOwner<Real>& owner) {
  Launch<Real> launch{};
  launch.call = owner.call();
  launch.summed = owner.summed().data();
  launch.summed_count = static_cast<int64_t>(owner.summed().size());
  return launch;
}

// The kernel for calls of all programs.
template <class Real>
const void* kernel_for(int64_t image_bytes) {
  return image_bytes <= small_image ? reinterpret_cast<const void*>(run_tasks<Real, small_image>)
                                    : reinterpret_cast<const void*>(run_tasks<Real, large_image>);
}

bool has_clusters(int device) { return attribute(cudaDevAttrComputeCapabilityMajor, device) >= 9; }

// All the shared memory that a block may have, and clusters of any size.
void allow_most(const void* kernel, int device) {
  const int most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
        "shared memory of a block");
  if (!has_clusters(device)) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
        "large clusters");
}

// A launch of so many clusters. Its attribute must live as long as it does.
cudaLaunchConfig_t configuration(int64_t clusters, int log_blocks, int lanes, int shared_bytes,
                                 cudaLaunchAttribute& cluster) {
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(clusters << log_blocks);
  config.blockDim = lanes;
  config.dynamicSmemBytes = shared_bytes;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {1u << log_blocks, 1, 1};
  config.attrs = &cluster;
  config.numAttrs = log_blocks > 0 ? 1 : 0;
  return config;
}

// The largest cluster that the device has room for.
int most_log_blocks_of(const void* kernel, int lanes, int shared_bytes, int device) {
  int log_blocks = has_clusters(device) ? most_log_blocks : 0;
  for (; log_blocks > 0; --log_blocks) {
    cudaLaunchAttribute cluster{};
    const auto config = configuration(1, log_blocks, lanes, shared_bytes, cluster);
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess)
      cudaGetLastError();
    if (clusters > 0) break;
  }
  return log_blocks;
}

// The argument of a kernel has a fixed size, of which the image is the beginning.
template <class Real, int capacity>
void launch_kernels(const LaunchPlan& plan, const CompiledKernel* compiled,
                    const std::vector<char>& image, int64_t summed_size, cudaStream_t stream) {
  Image<capacity> argument;
  std::memcpy(argument.bytes, image.data(), image.size());
  cudaLaunchAttribute cluster{};
  cudaLaunchConfig_t config =
      configuration(plan.teams, plan.log_blocks, plan.lanes(), plan.shared_bytes, cluster);
  config.stream = stream;
  int image_size = static_cast<int>(image.size()), scratch_size = plan.scratch_size;
  void* arguments[] = {&argument, &image_size, &scratch_size};
  const void* kernel = compiled ? compiled->kernel() : kernel_for<Real>(capacity);
  check(cudaLaunchKernelExC(&config, kernel, arguments), "launch of the tasks");
  if (summed_size == 0) return;
  const dim3 block(sum_width, sum_ranges);
  const int64_t blocks = (summed_size + sum_width - 1) / sum_width;
  sum_chunks<Real, capacity><<<blocks, block, 0, stream>>>(argument);
  check(cudaGetLastError(), "launch of the sums");
}

}  // namespace

std::string device_refusal(int device) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "there is no NVIDIA driver";
  // Within a major version, what is compiled ahead runs with an older driver too.
  if (driver / 1000 < runtime / 1000) {
    return "its CUDA kernels need a driver of CUDA " + std::to_string(runtime / 1000) +
           " or newer, and this one is of CUDA " + std::to_string(driver / 1000) + "." +
           std::to_string(driver % 1000 / 10);
  }
  try {
    const DeviceGuard guard(device);
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel_for<float>(0));
    if (error == cudaErrorNoKernelImageForDevice) {
      cudaGetLastError();
      return "its CUDA kernels were not built for a GPU of compute capability " +
             std::to_string(attribute(cudaDevAttrComputeCapabilityMajor, device)) + "." +
             std::to_string(attribute(cudaDevAttrComputeCapabilityMinor, device));
    }
    check(error, "the kernels cannot be loaded");
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

template <class Real>
LaunchPlan plan_launch(const ProgramOwner& program, const CallArgument& argument, int64_t tensors,
                       int device) {
  const DeviceGuard guard(device);
  const CallOwner<Real> owner(program, argument, any_addresses(tensors), 0);
  const Call<Real>& call = owner.call();
  check_sizes(call);
  LaunchPlan plan{};
  plan.device = device;
  const int64_t widest = widest_op(call);
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  plan.chunks = chunks_of(call);
  plan.image_bytes = static_cast<int>(make_image(launch_of(owner)).size());
  if (plan.image_bytes > large_image) {
    throw std::runtime_error("CUDA: the description of the call takes " +
                             std::to_string(plan.image_bytes) + " bytes, and a launch carries " +
                             std::to_string(large_image));
  }
  const int most_shared = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  plan.log_lanes = log_lanes_for(widest, longest_product(call), plan.chunks, multiprocessors);
  // The scratch memory of 512 lanes in float64 is all that a block of Turing has.
  const auto fixed_bytes = [&] {
    return scratch_for(plan.log_lanes) * int{sizeof(Real)} + plan.image_bytes;
  };
  while (fixed_bytes() > most_shared && plan.log_lanes > least_log_lanes) --plan.log_lanes;
  plan.scratch_size = scratch_for(plan.log_lanes);
  const int fixed = fixed_bytes();
  const int all_shared = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  const int reserved = attribute(cudaDevAttrReservedSharedMemoryPerBlock, device);
  const void* kernel = kernel_for<Real>(plan.image_bytes);
  allow_most(kernel, device);
  // As many blocks on a multiprocessor as there are tasks for, and share its memory among them.
  int together = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&together, kernel, plan.lanes(), fixed),
        "blocks of a multiprocessor");
  if (together == 0) {
    throw std::runtime_error("CUDA: a block needs " + std::to_string(fixed) +
                             " bytes of shared memory, and the device has " +
                             std::to_string(most_shared));
  }
  plan.log_blocks = log_blocks_for(widest, plan.chunks, multiprocessors,
                                   most_log_blocks_of(kernel, plan.lanes(), fixed, device));
  const int64_t wanted = (plan.chunks + multiprocessors - 1) / multiprocessors;
  together = static_cast<int>(std::min<int64_t>(together, wanted));
  const int share = std::min(all_shared / together - reserved, most_shared);
  int64_t fast = (share - fixed) / int64_t{sizeof(Real)};
  if (plan.log_blocks > 0) fast = 0;  // blocks do not see each other's
  if (const auto forced = from_environment("FASTMAML_FAST")) fast = std::min(fast, *forced);
  const Workspace workspace = plan_workspace(call, fast);
  plan.fast_size = workspace.fast_size;
  plan.slow_size = workspace.size - workspace.fast_size;
  plan.shared_bytes = fixed + static_cast<int>(plan.fast_size * sizeof(Real));
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&plan.blocks_together, kernel, plan.lanes(),
                                                      plan.shared_bytes),
        "blocks of a multiprocessor");
  const int64_t resident = int64_t{plan.blocks_together} * multiprocessors;
  plan.teams = std::min(plan.chunks, resident >> plan.log_blocks);
  plan.sum_stride = (call.summed_size + 31) / 32 * 32;
  plan.workspace = plan.chunks * plan.sum_stride + plan.teams * plan.slow_size;
  return plan;
}

CompiledKernel::CompiledKernel(int device, const std::string& binary) {
  const DeviceGuard guard(device);
  cudaLibrary_t library;
  check(cudaLibraryLoadData(&library, binary.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
        "a compiled kernel cannot be loaded");
  library_ = library;
  cudaKernel_t kernel;
  try {
    check(cudaLibraryGetKernel(&kernel, library, "run_compiled"), "a compiled kernel is not there");
    kernel_ = reinterpret_cast<const void*>(kernel);
    allow_most(kernel_, device);
  } catch (...) {
    cudaLibraryUnload(library);
    throw;
  }
}

CompiledKernel::~CompiledKernel() { cudaLibraryUnload(static_cast<cudaLibrary_t>(library_)); }

std::string architecture(int device) {
  return "sm_" + std::to_string(attribute(cudaDevAttrComputeCapabilityMajor, device)) +
         std::to_string(attribute(cudaDevAttrComputeCapabilityMinor, device));
}

template <class Real>
void run(const LaunchPlan& plan, const CompiledKernel* compiled, const ProgramOwner& program,
         const CallArgument& argument, const std::vector<Address>& addresses, uint32_t seed,
         Address workspace, Address stream) {
  const DeviceGuard guard(plan.device);
  const CallOwner<Real> owner(program, argument, addresses, seed);
  Launch<Real> launch = launch_of(owner);
  launch.workspace = plan_workspace(launch.call, plan.fast_size);
  launch.chunks = plan.chunks;
  launch.sums = reinterpret_cast<Real*>(workspace);
  launch.sum_stride = plan.sum_stride;
  launch.slow = launch.sums + plan.chunks * plan.sum_stride;
  launch.slow_stride = plan.slow_size;
  launch.log_lanes = plan.log_lanes;
  launch.log_blocks = plan.log_blocks;
  launch.poison = std::getenv("FASTMAML_POISON") != nullptr;
  const std::vector<char> image = make_image(launch);
  const cudaStream_t on = reinterpret_cast<cudaStream_t>(stream);
  if (image.size() <= small_image) {
    launch_kernels<Real, small_image>(plan, compiled, image, launch.call.summed_size, on);
  } else {
    launch_kernels<Real, large_image>(plan, compiled, image, launch.call.summed_size, on);
  }
}

template LaunchPlan plan_launch<float>(const ProgramOwner&, const CallArgument&, int64_t, int);
template LaunchPlan plan_launch<double>(const ProgramOwner&, const CallArgument&, int64_t, int);
template void run<float>(const LaunchPlan&, const CompiledKernel*, const ProgramOwner&,
                         const CallArgument&, const std::vector<Address>&, uint32_t, Address,
                         Address);
template void run<double>(const LaunchPlan&, const CompiledKernel*, const ProgramOwner&,
                          const CallArgument&, const std::vector<Address>&, uint32_t, Address,
                          Address);

}  // namespace fastmaml
