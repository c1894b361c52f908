// Times whole calls of the native executor on a GPU without Python, and compares their gradients
// with those of the CPU. This is the program for ncu and compute-sanitizer:
//
//   cuda_bench [workload [calls]]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/executor.h"
#include "workloads.h"

namespace {

using namespace fastmaml;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

// The tensors of a problem on the device.
class DeviceTensors {
 public:
  explicit DeviceTensors(const Problem& problem) : problem_(problem) {
    for (size_t i = 0; i < problem.bytes().size(); ++i) {
      void* tensor;
      check(cudaMalloc(&tensor, problem.bytes()[i]));
      const void* from = reinterpret_cast<const void*>(problem.addresses()[i + 1]);
      check(cudaMemcpy(tensor, from, problem.bytes()[i], cudaMemcpyHostToDevice));
      addresses_.push_back(reinterpret_cast<Address>(tensor));
    }
  }
  ~DeviceTensors() {
    for (const Address tensor : addresses_) cudaFree(reinterpret_cast<void*>(tensor));
  }
  const std::vector<Address>& addresses() const { return addresses_; }

  // The numbers of one, and those of the host's.
  std::vector<float> numbers(Ref tensor) const {
    std::vector<float> numbers(problem_.bytes()[tensor - 1] / sizeof(float));
    check(cudaMemcpy(numbers.data(), reinterpret_cast<const void*>(addresses_[tensor]),
                     problem_.bytes()[tensor - 1], cudaMemcpyDeviceToHost));
    return numbers;
  }
  const float* host(Ref tensor) const {
    return reinterpret_cast<const float*>(problem_.addresses()[tensor]);
  }

 private:
  const Problem& problem_;
  std::vector<Address> addresses_ = {0};
};

// The largest difference of a gradient, over its largest number.
double error(const Problem& problem, const DeviceTensors& tensors) {
  double worst = 0;
  for (const ParameterArgument& parameter : problem.call().parameters) {
    const std::vector<float> got = tensors.numbers(parameter.grad);
    const float* expected = tensors.host(parameter.grad);
    double largest = 0, difference = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      largest = std::max(largest, std::fabs(double(expected[i])));
      difference = std::max(difference, std::fabs(double(got[i]) - double(expected[i])));
    }
    worst = std::max(worst, difference / largest);
  }
  return worst;
}

void time_calls(const Workload& w, int calls) {
  const Problem problem(w);
  const DeviceTensors tensors(problem);
  const LaunchPlan plan =
      plan_launch<float>(problem.program(), problem.call(), int64_t(tensors.addresses().size()), 0);
  void* workspace;
  check(cudaMalloc(&workspace, plan.workspace * sizeof(float)));
  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int call = 0; call < calls + 2; ++call) {
    check(cudaEventRecord(begin, stream));
    run<float>(plan, nullptr, problem.program(), problem.call(), tensors.addresses(), 0,
               reinterpret_cast<Address>(workspace), reinterpret_cast<Address>(stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float milliseconds;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (call >= 2) times.push_back(1e3f * milliseconds);
  }
  std::sort(times.begin(), times.end());
  problem.run(4);
  std::printf(
      "%-11s shortest %8.1f us   median %8.1f us   error %.1e   %d threads, %d blocks a task, %lld "
      "tasks at a time, %d "
      "together, %.0f KiB shared and %.0f KiB global a task\n",
      w.name, times.front(), times[times.size() / 2], error(problem, tensors), plan.lanes(),
      plan.blocks_a_task(), static_cast<long long>(plan.teams), plan.blocks_together,
      plan.fast_size * 4 / 1024.0, plan.slow_size * 4 / 1024.0);
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  check(cudaStreamDestroy(stream));
  check(cudaFree(workspace));
}

}  // namespace

int main(int argc, char** argv) {
  const int calls = argc > 2 ? std::atoi(argv[2]) : 20;
  for (const Workload& w : workloads) {
    if (argc > 1 && std::strcmp(argv[1], "all") != 0 && std::strcmp(argv[1], w.name) != 0) continue;
    time_calls(w, calls);
  }
}
