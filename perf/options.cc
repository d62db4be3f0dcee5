// nccl-tests' flags and ours, see options.h.
#include "perf/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace tutti::perf {
namespace {

size_t size_or_throw(const std::string& text) {
  const std::optional<size_t> size = parse_size(text);
  if (!size) throw CLI::ValidationError("'" + text + "' is not a size such as 64, 4K or 1.5M");
  return *size;
}

template <class T, class Parse>
std::vector<T> list_or_throw(const std::string& text, int all, const Parse& parse) {
  std::vector<T> values;
  if (text == "all") {
    for (int i = 0; i < all; ++i) values.push_back(static_cast<T>(i));
    return values;
  }
  const std::optional<T> value = parse(text);
  if (!value) throw CLI::ValidationError("'" + text + "' is not known");
  return {*value};
}

void add_size(CLI::App& app, const std::string& flags, size_t* target, const std::string& help) {
  app.add_option_function<std::string>(
         flags, [target](const std::string& text) { *target = size_or_throw(text); }, help)
      ->type_name("SIZE");
}

// Flags that only mean something on a GPU: accepted, so that scripts keep working, and named.
void add_gpu_flags(CLI::App& app, PerfOptions* options) {
  const std::vector<std::pair<std::string, std::string>> flags = {
      {"-p,--parallel_init", "ranks always start in parallel"},
      {"-D,--device_implementation", "tutti has no kernels that call from the device"},
      {"-V,--device_cta_count", "tutti has no kernels that call from the device"},
      {"-M,--memory", "no memory report"},
  };
  for (const auto& [flag, why] : flags) {
    const std::string note = flag + ": no effect, " + why;
    app.add_option_function<std::string>(
           flag,
           [options, note](const std::string& value) {
             if (value != "0") options->notes.push_back(note);
           },
           "accepted for nccl-tests' scripts; " + why)
        ->group("GPU only");
  }
  app.add_option("-G,--cudagraph", options->sweep.graph_launches,
                 "capture the iterations as a CUDA graph and launch it so often (0: no graph)")
      ->check(CLI::Range(0u, 1000000u))
      ->group("GPU only");
  app.add_option_function<int>(
         "-y,--stream_null", [options](int on) { options->null_stream = on != 0; },
         "1: calls go on the default stream")
      ->group("GPU only");
  app.add_option("-x,--cta_policy", options->cta_policy,
                 "2: copies by the copy engines where they serve (NCCL_CTA_POLICY)")
      ->check(CLI::Range(0, 2))
      ->group("GPU only");
}

void add_launch_flags(CLI::App& app, PerfOptions* options) {
  app.add_option("-t,--nthreads", options->threads, "ranks (threads) in each process")
      ->check(CLI::Range(1u, 100000u));
  app.add_option_function<uint32_t>(
         "-g,--ngpus",
         [options](uint32_t gpus) {
           options->gpus = std::max(gpus, 1u);
           options->threads *= options->gpus;
         },
         "devices for each thread: each is a rank in a thread of its own, also on host memory")
      ->trigger_on_parse(false);
  app.add_option_function<std::string>(
         "--ranks,--np",
         [options](const std::string& text) {
           for (const std::string& item : CLI::detail::split(text, ',')) {
             const int ranks = std::atoi(item.c_str());
             if (ranks < 1)
               throw CLI::ValidationError("--ranks " + text + ": not a number of ranks");
             options->peer_ranks.push_back(static_cast<uint32_t>(ranks));
           }
           options->ranks = options->peer_ranks.front();
         },
         "start this many ranks here, without a launcher (-np too); a list with --peers")
      ->type_name("N[,N]");
  app.add_option_function<std::string>(
         "--mode", [options](const std::string& mode) { options->threads_mode = mode == "thread"; },
         "what --ranks starts: process or thread")
      ->check(CLI::IsMember({"process", "thread"}));
  app.add_option("-T,--timeout", options->timeout_s,
                 "seconds after which a late operation fails (0: never)");
}

void add_report_flags(CLI::App& app, PerfOptions* options) {
  SweepOptions* sweep = &options->sweep;
  app.add_option("-N,--run_cycles", options->run_cycles, "sweeps to print (0: for ever)");
  app.add_option("--repeat", options->repeat,
                 "run the sweep this many times; report the median of each figure")
      ->check(CLI::Range(1u, 100000u));
  app.add_option_function<int>(
      "-C,--report_cputime", [sweep](int on) { sweep->cpu_time = on != 0; },
      "CPU time of the calling thread instead of elapsed time");
  app.add_option_function<int>(
      "-S,--report_timestamps", [options](int on) { options->report_timestamps = on != 0; },
      "a timestamp column");
  app.add_option("-J,--output_file", options->json_file, "results as JSON, nccl-tests' version 3")
      ->check([](const std::string& path) {
        return path.size() > 5 && path.ends_with(".json") ? "" : "the file must end in .json";
      });
  app.add_option("--json-lines", options->json_lines_file, "append one JSON object per point");
  app.add_flag("--percentiles", options->percentiles, "with -I: p50, p90 and p95 columns too");
  app.add_flag("--ceilings,!--no-ceilings", options->ceilings,
               "measure what this machine allows and print % of it");
  app.add_flag("--path,!--no-path", options->show_path, "print how each point ran, last column");
  app.add_option_function<std::string>(
      "-R,--local_register",
      [options](const std::string& level) {
        if (level == "0") return;
        if (options->sweep.buffer == BufferKind::private_memory)
          options->sweep.buffer = BufferKind::mem_alloc;
        options->notes.push_back("-R: host buffers come from tutti::mem_alloc");
      },
      "not 0: --buffer mem_alloc");
  app.add_option_function<std::string>(
         "--buffer",
         [options, sweep](const std::string& kind) {
           sweep->buffer = kind == "mem_alloc" ? BufferKind::mem_alloc
                           : kind == "device"  ? BufferKind::device
                                               : BufferKind::private_memory;
           options->find_device = kind == "auto";
         },
         "private, mem_alloc (memory that the ranks of a host share), device, or auto: device "
         "where "
         "every rank has one, else private")
      ->check(CLI::IsMember({"private", "mem_alloc", "device", "auto"}));
  app.add_option("--transport", options->transport, "use only this transport")
      ->check(CLI::IsMember({"shm", "tcp"}));
}

void add_peer_flags(CLI::App& app, PerfOptions* options) {
  app.add_flag("--peers", options->peers,
               "run Open MPI, MPICH and Gloo in turns with tutti and print ratios");
  app.add_option("--budget", options->budget_s, "with --peers: seconds for the whole table");
  app.add_option("--markdown", options->markdown_file, "with --peers: write the table here");
}

// -np and --np are one flag: CLI11 knows no short flags of two letters.
std::vector<std::string> normalised(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i)
    arguments.emplace_back(std::string(argv[i]) == "-np" ? "--np" : argv[i]);
  return arguments;
}

}  // namespace

std::optional<size_t> parse_size(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  if (end == text.c_str() || !std::isfinite(number) || number < 0) return std::nullopt;
  double unit = 1;
  switch (*end) {
    case 'g':
    case 'G':
      unit *= 1024;
      [[fallthrough]];
    case 'm':
    case 'M':
      unit *= 1024;
      [[fallthrough]];
    case 'k':
    case 'K':
      unit *= 1024;
      break;
    case '\0':
      break;
    default:
      return std::nullopt;
  }
  if (number * unit > 1e18) return std::nullopt;
  return static_cast<size_t>(number * unit);
}

void add_sweep_flags(CLI::App& app, SweepOptions* sweep) {
  add_size(app, "-b,--minbytes", &sweep->min_bytes, "smallest size (32M)");
  add_size(app, "-e,--maxbytes", &sweep->max_bytes, "largest size (32M)");
  add_size(app, "-i,--stepbytes", &sweep->step_bytes, "increment between sizes (1M)");
  app.add_option("-f,--stepfactor", sweep->step_factor, "factor between sizes, wins over -i");
  app.add_option("-n,--iters", sweep->iterations, "iterations; 0: as many as fit --time-per-size");
  app.add_option("--time-per-size", sweep->time_per_size, "seconds for the iterations of one size");
  app.add_option("-w,--warmup_iters", sweep->warmup, "iterations before the clock starts");
  app.add_option("-m,--agg_iters", sweep->operations, "operations per iteration")
      ->check(CLI::Range(1u, 1000000u));
  app.add_option("-c,--check", sweep->checks, "check iterations, each with other data");
  app.add_option_function<std::string>(
      "-o,--op",
      [sweep](const std::string& text) {
        sweep->ops = list_or_throw<ReduceOp>(text, k_reduce_ops, parse_reduce_op);
      },
      "sum prod min max avg mulsum all");
  app.add_option_function<std::string>(
      "-d,--datatype",
      [sweep](const std::string& text) {
        sweep->dtypes = list_or_throw<DType>(text, k_dtypes, parse_dtype);
      },
      "int8 uint8 int32 uint32 int64 uint64 half float double bfloat16 f8e4m3 f8e5m2 all");
  app.add_option_function<std::string>(
      "-r,--root",
      [sweep](const std::string& text) {
        // "all" is resolved when the number of ranks is known: an empty list.
        sweep->roots.clear();
        if (text != "all")
          sweep->roots.push_back(static_cast<Rank>(std::strtoul(text.c_str(), nullptr, 10)));
      },
      "root rank, or all");
  app.add_option_function<int>(
         "-a,--average", [sweep](int how) { sweep->across = static_cast<Across>(how); },
         "across ranks: 0 rank 0, 1 average, 2 min, 3 max (3)")
      ->check(CLI::Range(0, 3));
  app.add_option_function<int>(
      "-z,--blocking", [sweep](int how) { sweep->barrier_each = how == 1 || how == 3; },
      "1 or 3: a barrier, not timed, before every iteration");
  app.add_option("-u,--unalign", sweep->misalign, "shift the buffers by this many elements");
  app.add_option_function<int>(
      "-I,--per_iter_timing", [sweep](int on) { sweep->per_iteration = on != 0; },
      "also time each iteration: i_min i_max i_p99 i_cv%");
  app.add_option("-K,--per_iter_skip", sweep->per_iteration_skip, "leading samples to drop");
  app.add_option_function<std::string>(
         "--place",
         [sweep](const std::string& place) {
           sweep->out_of_place = place != "in";
           sweep->in_place = place != "out";
         },
         "in, out or both")
      ->check(CLI::IsMember({"in", "out", "both"}));
}

std::optional<int> parse_options(int argc, char** argv, std::optional<Collective> collective,
                                 PerfOptions* options) {
  CLI::App app{"Measures a collective and checks every result.", argc > 0 ? argv[0] : "perf"};
  options->program = argc > 0 ? argv[0] : "";
  options->arguments.assign(argv, argv + argc);
  if (collective) {
    options->sweep.collective = *collective;
    options->find_device = true;  // as nccl-tests would
  } else {
    // `tutti perf`: ours from the start; the nccl-tests-named binaries keep nccl-tests' columns.
    options->ceilings = true;
    options->sweep.iterations = 0;
    options->sweep.warmup = 5;
    app.add_option_function<std::string>(
        "--collective",
        [options](const std::string& text) {
          const std::optional<Collective> parsed = parse_collective(text);
          if (!parsed || *parsed == Collective::barrier)
            throw CLI::ValidationError("'" + text + "' is not a collective that moves data");
          options->sweep.collective = *parsed;
        },
        "all_reduce (default), all_gather, broadcast, ...");
    add_peer_flags(app, options);
  }
  add_sweep_flags(app, &options->sweep);
  add_launch_flags(app, options);
  add_report_flags(app, options);
  add_gpu_flags(app, options);
  try {
    app.parse(normalised(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  if (options->sweep.max_bytes < options->sweep.min_bytes)
    options->sweep.max_bytes = options->sweep.min_bytes;
  return std::nullopt;
}

}  // namespace tutti::perf
