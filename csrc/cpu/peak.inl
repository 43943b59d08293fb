// contract/peak.h on the CPU.

// The most units of work per second that one call of `piece`, repeated for `seconds`, got done.
template <class F>
double best_rate(double seconds, double units, const F& piece) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  piece();  // starts the threads
  double best = 0;
  const auto start = Clock::now();
  do {
    const auto begin = Clock::now();
    piece();
    best = std::max(best, units / since(begin));
  } while (since(start) < seconds);
  return best;
}

// The compiler must take `value` for read and changed here.
template <class T>
void touch(T& value) {
  asm volatile("" : "+m"(value) : : "memory");
}

template <class A>
double fma_rate(double seconds) {
  // As many accumulators as the GEMM micro-kernel has: they fit in the registers. For the scalar
  // kernels the compiler may use its default target's 16-byte vectors, of which 12 fit.
  constexpr bool kScalar = Vec<A>::width == 1;
  constexpr int kWidth = kScalar ? 16 / sizeof(A) : Vec<A>::width;
  constexpr int kChains = kScalar ? 12 : kMicroRows * kMicroVectors;
  typedef A Vector __attribute__((vector_size(kWidth * sizeof(A))));
  constexpr int64_t kRounds = 1 << 20;
  const int threads = thread_count();
  const double operations = 2.0 * kChains * kWidth * kRounds * threads;
  return best_rate(seconds, operations, [&] {
    parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread) {
        // v <- v / 2 + 1/2 tends to 1: neither infinities nor subnormals, which may be slower.
        Vector a = {}, b = {}, v[kChains] = {};
        a += A(0.5);
        b += A(0.5);
        touch(a);
        touch(b);
        for (int64_t round = 0; round < kRounds; ++round) {
#pragma GCC unroll 24
          for (int i = 0; i < kChains; ++i) v[i] = v[i] * a + b;
        }
        touch(v);
      }
    });
  });
}

inline void fma_peak(const FmaPeakArgs& args) {
  *args.rate =
      args.dtype == DType::f64 ? fma_rate<double>(args.seconds) : fma_rate<float>(args.seconds);
}

inline void bandwidth(const BandwidthArgs& args) {
  using V = Vec<float>;
  constexpr int64_t kStep = 4 * V::width, kPieceBytes = int64_t{1} << 28;
  const int64_t threads = thread_count();
  const int64_t floats = args.bytes / static_cast<int64_t>(2 * sizeof(float));
  const int64_t share = std::max(floats / threads / kStep, int64_t{1}) * kStep;
  const int64_t bytes_per_pass = 3 * sizeof(float) * share * threads;
  const int64_t passes = std::max(kPieceBytes / bytes_per_pass, int64_t{1});

  // Not initialised here: each page is to be first written, and so placed, by its own thread.
  constexpr int64_t kLine = 64;
  const std::unique_ptr<char[]> memory(new char[2 * share * threads * sizeof(float) + kLine]);
  const auto address = reinterpret_cast<uintptr_t>(memory.get());
  float* arrays = reinterpret_cast<float*>(memory.get() + (kLine - address % kLine) % kLine);
  const auto each_share = [&](const auto& body) {
    parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread) {
        float* p = arrays + 2 * share * thread;
        body(p, p + share);
      }
    });
  };
  each_share([&](float* p, float* g) {
    std::fill(p, p + share, 1.0f);
    std::fill(g, g + share, 1.0f);
  });

  const double moved = static_cast<double>(bytes_per_pass) * passes;
  *args.rate = best_rate(args.seconds, moved, [&] {
    each_share([&](float* p, const float* g) {
      for (int64_t pass = 0; pass < passes; ++pass) {
        for (int64_t i = 0; i < share; i += kStep) {
#pragma GCC unroll 4
          for (int64_t j = i; j < i + kStep; j += V::width)
            V::store(p + j, V::load(p + j) - 0.001f * V::load(g + j));
        }
        touch(*p);
      }
    });
  });
}
