// tutti._core: what Python sees of the library. The package tutti re-exports it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "bindings/python/src/communicator.h"

namespace tutti::python {
namespace {

using namespace nb::literals;

// --- memory that the ranks of a host share

struct SharedMemory {
  void* data = nullptr;
  size_t bytes = 0;
  explicit SharedMemory(size_t n) : bytes(n) {
    Status status;
    data = mem_alloc(std::max<size_t>(n, 1), &status);
    if (data == nullptr) throw_status(status);
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory() {
    if (data != nullptr) static_cast<void>(mem_free(data));
  }
};

int shared_memory_get_buffer(PyObject* object, Py_buffer* view, int flags) {
  auto* memory = nb::inst_ptr<SharedMemory>(nb::handle(object));
  return PyBuffer_FillInfo(view, object, memory->data, static_cast<Py_ssize_t>(memory->bytes), 0,
                           flags);
}

PyType_Slot shared_memory_slots[] = {
    {Py_bf_getbuffer, reinterpret_cast<void*>(shared_memory_get_buffer)}, {0, nullptr}};

// --- creating communicators

using CommunicatorPtr = std::unique_ptr<Communicator>;

PyCommunicator* adopt(Result<CommunicatorPtr> made) {
  if (!made) throw_status(made.status());
  return new PyCommunicator(std::move(*made));
}

Config config_or_environment(const Config* config) {
  if (config != nullptr) return *config;
  Result<Config> read = Config::from_environment();
  if (!read) throw_status(read.status());
  return *read;
}

PyCommunicator* init(int64_t ranks, int64_t rank, const UniqueId& id, const Config* config) {
  if (ranks < 1 || ranks > UINT32_MAX)
    throw nb::value_error(("init: nranks is " + std::to_string(ranks)).c_str());
  if (rank < 0 || rank >= ranks)
    throw nb::value_error(
        ("init: rank is " + std::to_string(rank) + " of " + std::to_string(ranks) + " ranks")
            .c_str());
  const Config settings = config_or_environment(config);
  return adopt(run_interruptibly<CommunicatorPtr>([=] {
    return Communicator::create(id, static_cast<Rank>(rank), static_cast<uint32_t>(ranks),
                                settings);
  }));
}

PyCommunicator* from_environment() {
  return adopt(run_interruptibly<CommunicatorPtr>([] { return Communicator::from_environment(); }));
}

std::vector<nb::object> init_all(int64_t ranks, const Config* config) {
  if (ranks < 1 || ranks > 4096)
    throw nb::value_error(("init_all: nranks is " + std::to_string(ranks)).c_str());
  const Config settings = config_or_environment(config);
  using All = std::vector<CommunicatorPtr>;
  Result<All> all = run_interruptibly<All>(
      [=] { return Communicator::create_local(static_cast<uint32_t>(ranks), settings); });
  if (!all) throw_status(all.status());
  std::vector<nb::object> objects;
  for (CommunicatorPtr& c : *all)
    objects.push_back(nb::cast(new PyCommunicator(std::move(c)), nb::rv_policy::take_ownership));
  return objects;
}

// --- binding helpers

// Sends what `prepare` made either to the blocking or to the asynchronous form.
template <bool k_async>
auto issue(PyCommunicator& c, const char* call, nb::handle stream, Prepared prepared) {
  settle_memory(*c.get(), call, stream_from(stream), &prepared);
  if constexpr (k_async) {
    if (Group::open() != nullptr)
      throw_status(Status(Code::invalid_usage,
                          "asynchronous forms cannot be used inside a group; the group is one "
                          "operation already"));
    if (prepared.operation.on_device) return c.start_on_stream(std::move(prepared));
    std::vector<Prepared> one;
    one.push_back(std::move(prepared));
    return c.start(std::move(one), false);
  } else {
    c.run(std::move(prepared));
  }
}

#define TUTTI_ARRAY "tutti._typing.Array"
#define TUTTI_OPERATOR "ReduceOp | PreMulSum"

using CommunicatorClass = nb::class_<PyCommunicator>;

// Each collective under nccl4py's name, under the library's own where that differs, and both with
// _async behind.
template <bool k_async>
void bind_collectives(CommunicatorClass& c) {
  const auto method = [&c](const char* name, const char* other, const std::string& parameters,
                           auto function, const char* doc, auto... arguments) {
    for (const char* base : {name, other}) {
      if (base == nullptr) continue;
      const std::string full = std::string(base) + (k_async ? "_async" : "");
      const std::string signature =
          "def " + full + "(self" + parameters + ") -> " + (k_async ? "Work" : "None");
      c.def(full.c_str(), function, arguments..., nb::sig(signature.c_str()), doc);
    }
  };
  const std::string stream = ", *, stream: tutti._typing.Stream | None = None";
  const std::string send = ", sendbuf: " TUTTI_ARRAY, maybe_send = send + " | None";
  const std::string recv = ", recvbuf: " TUTTI_ARRAY, maybe_recv = recv + " | None = None";
  const std::string op = ", op: " TUTTI_OPERATOR " = ...", root = ", root: int = 0";
  const auto a_send = nb::arg("sendbuf").none();
  const auto a_recv = nb::arg("recvbuf").none() = nb::none();
  const auto a_must = nb::arg("recvbuf");
  const auto a_op = nb::arg("op") = Operator(ReduceOp::sum);
  const auto a_root = nb::arg("root") = 0;
  const auto a_stream = nb::arg("stream").none() = nb::none();

  method(
      "allreduce", "all_reduce", send + maybe_recv + op + stream,
      [](PyCommunicator& self, nb::handle s, nb::handle r, const Operator& o, nb::handle stream_) {
        return issue<k_async>(self, "allreduce", stream_,
                              prepare_all_reduce(self.place("allreduce", stream_), s, r, o));
      },
      "Reduces sendbuf over all ranks into recvbuf on every rank; in place when recvbuf is None.",
      a_send, a_recv, a_op, nb::kw_only(), a_stream);
  method(
      "reduce", nullptr, send + maybe_recv + op + root + stream,
      [](PyCommunicator& self, nb::handle s, nb::handle r, const Operator& o, int64_t root_,
         nb::handle stream_) {
        return issue<k_async>(self, "reduce", stream_,
                              prepare_reduce(self.place("reduce", stream_), s, r, o, root_));
      },
      "Reduces sendbuf over all ranks into recvbuf on root; in place there when recvbuf is None.",
      a_send, a_recv, a_op, a_root, nb::kw_only(), a_stream);
  method(
      "broadcast", nullptr, maybe_send + maybe_recv + root + stream,
      [](PyCommunicator& self, nb::handle s, nb::handle r, int64_t root_, nb::handle stream_) {
        return issue<k_async>(self, "broadcast", stream_,
                              prepare_broadcast(self.place("broadcast", stream_), s, r, root_));
      },
      "Copies root's sendbuf into recvbuf on every rank; recvbuf None: sendbuf is both.", a_send,
      a_recv, a_root, nb::kw_only(), a_stream);
  method(
      "allgather", "all_gather", maybe_send + recv + stream,
      [](PyCommunicator& self, nb::handle s, nb::handle r, nb::handle stream_) {
        return issue<k_async>(self, "allgather", stream_,
                              prepare_all_gather(self.place("allgather", stream_), s, r));
      },
      "Concatenates every rank's sendbuf, in the order of ranks, into recvbuf on every rank. "
      "sendbuf None: this rank's block of recvbuf.",
      a_send, a_must, nb::kw_only(), a_stream);
  method(
      "reduce_scatter", nullptr, send + maybe_recv + op + stream,
      [](PyCommunicator& self, nb::handle s, nb::handle r, const Operator& o, nb::handle stream_) {
        return issue<k_async>(
            self, "reduce_scatter", stream_,
            prepare_reduce_scatter(self.place("reduce_scatter", stream_), s, r, o));
      },
      "Reduces sendbuf (nranks blocks) over all ranks; block i goes to recvbuf of rank i. recvbuf "
      "None: into this rank's block of sendbuf.",
      a_send, a_recv, a_op, nb::kw_only(), a_stream);
  method(
      "alltoall", "all_to_all", send + maybe_recv + stream,
      [](PyCommunicator& self, nb::handle s, nb::handle r, nb::handle stream_) {
        return issue<k_async>(self, "alltoall", stream_,
                              prepare_all_to_all(self.place("alltoall", stream_), s, r));
      },
      "Block i of sendbuf goes to rank i, which stores it as block `rank` of recvbuf; in place "
      "when recvbuf is None.",
      a_send, a_recv, nb::kw_only(), a_stream);
  method(
      "alltoallv", "all_to_all_v",
      send + ", sendcounts: Sequence[int]" + recv +
          ", recvcounts: Sequence[int], senddispls: Sequence[int] = (), recvdispls: "
          "Sequence[int] = ()" +
          stream,
      [](PyCommunicator& self, nb::handle s, std::vector<int64_t> sc, nb::handle r,
         std::vector<int64_t> rc, std::vector<int64_t> sd, std::vector<int64_t> rd,
         nb::handle stream_) {
        return issue<k_async>(
            self, "alltoallv", stream_,
            prepare_all_to_all_v(self.place("alltoallv", stream_), s, std::move(sc), r,
                                 std::move(rc), std::move(sd), std::move(rd)));
      },
      "alltoall with a count (in items) for every rank; displacements default to blocks one after "
      "the other.",
      a_send, "sendcounts"_a, a_must, "recvcounts"_a, "senddispls"_a = nb::make_tuple(),
      "recvdispls"_a = nb::make_tuple(), nb::kw_only(), a_stream);
  method(
      "gather", nullptr, maybe_send + maybe_recv + root + stream,
      [](PyCommunicator& self, nb::handle s, nb::handle r, int64_t root_, nb::handle stream_) {
        return issue<k_async>(self, "gather", stream_,
                              prepare_gather(self.place("gather", stream_), s, r, root_));
      },
      "Concatenates every rank's sendbuf into recvbuf on root (elsewhere recvbuf is ignored).",
      a_send, a_recv, a_root, nb::kw_only(), a_stream);
  method(
      "scatter", nullptr, maybe_send + maybe_recv + root + stream,
      [](PyCommunicator& self, nb::handle s, nb::handle r, int64_t root_, nb::handle stream_) {
        return issue<k_async>(self, "scatter", stream_,
                              prepare_scatter(self.place("scatter", stream_), s, r, root_));
      },
      "Block i of root's sendbuf goes to recvbuf of rank i (sendbuf is ignored elsewhere).", a_send,
      a_recv, a_root, nb::kw_only(), a_stream);
  method(
      "send", nullptr, send + ", peer: int" + stream,
      [](PyCommunicator& self, nb::handle s, int64_t peer, nb::handle stream_) {
        return issue<k_async>(self, "send", stream_,
                              prepare_send(self.place("send", stream_), s, peer));
      },
      "Sends sendbuf to peer, which must call recv with as many items of the same type.", a_send,
      "peer"_a, nb::kw_only(), a_stream);
  method(
      "recv", nullptr, recv + ", peer: int" + stream,
      [](PyCommunicator& self, nb::handle r, int64_t peer, nb::handle stream_) {
        return issue<k_async>(self, "recv", stream_,
                              prepare_recv(self.place("recv", stream_), r, peer));
      },
      "Receives recvbuf from peer.", a_must, "peer"_a, nb::kw_only(), a_stream);
  const std::string signal = ", signal_index: int = 0, context: int = 0, flags: int = 0";
  const auto a_index = nb::arg("signal_index") = 0, a_context = nb::arg("context") = 0,
             a_flags = nb::arg("flags") = 0;
  method(
      "put_signal", nullptr,
      ", local_buffer: " TUTTI_ARRAY
      ", peer: int, peer_window: Window, peer_window_offset: int = 0" +
          signal + stream,
      [](PyCommunicator& self, nb::handle s, int64_t peer, const RegisteredWindow& window,
         int64_t offset, int64_t index, int64_t context, int64_t flags, nb::handle stream_) {
        return issue<k_async>(self, "put_signal", stream_,
                              prepare_put_signal(self.place("put_signal"), s, peer, window, offset,
                                                 index, context, flags));
      },
      "Writes local_buffer into what peer registered with peer_window, from item "
      "peer_window_offset on, and then raises a signal there. peer makes no call. Returns when "
      "local_buffer may be reused.",
      nb::arg("local_buffer"), "peer"_a, "peer_window"_a, nb::arg("peer_window_offset") = 0,
      a_index, a_context, a_flags, nb::kw_only(), a_stream);
  method(
      "signal", nullptr, ", peer: int" + signal + stream,
      [](PyCommunicator& self, int64_t peer, int64_t index, int64_t context, int64_t flags,
         nb::handle stream_) {
        return issue<k_async>(self, "signal", stream_,
                              prepare_signal(self.place("signal"), peer, index, context, flags));
      },
      "Raises a signal at peer, after all that was put there before.", "peer"_a, a_index, a_context,
      a_flags, nb::kw_only(), a_stream);
  method(
      "wait_signal", nullptr, ", descs: WaitSignalDesc | Sequence[WaitSignalDesc]" + stream,
      [](PyCommunicator& self,
         const std::variant<WaitSignalDesc, std::vector<WaitSignalDesc>>& descs,
         nb::handle stream_) {
        const auto* one = std::get_if<WaitSignalDesc>(&descs);
        return issue<k_async>(self, "wait_signal", stream_,
                              prepare_wait_signal(self.place("wait_signal"),
                                                  one != nullptr ? std::vector<WaitSignalDesc>{*one}
                                                                 : std::get<1>(descs)));
      },
      "Returns when the signals that the descriptors count have come, and takes them; what was put "
      "before each is in place.",
      nb::arg("descs"), nb::kw_only(), a_stream);
  method(
      "barrier", nullptr, "",
      [](PyCommunicator& self) { return issue<k_async>(self, "barrier", nb::none(), Prepared{}); },
      "Returns (or is done) when every rank has called it.");
}

// --- communicators from communicators

std::function<void()> aborting(const std::shared_ptr<Communicator>& c) {
  return [c] { c->abort("interrupted by a signal of the program"); };
}

nb::object split(PyCommunicator& self, std::optional<int> color, int key, const Config* config) {
  std::shared_ptr<Communicator> c = self.get();
  if (color && *color < 0) throw nb::value_error("split: color is negative; None opts out");
  const int chosen = color.value_or(Communicator::k_no_color);
  std::optional<Config> settings;
  if (config != nullptr) settings = *config;
  Result<CommunicatorPtr> made = run_interruptibly<CommunicatorPtr>(
      [=] { return c->split(chosen, key, settings ? &*settings : nullptr); }, aborting(c));
  if (!made) throw_status(made.status());
  if (*made == nullptr) return nb::none();
  return nb::cast(new PyCommunicator(std::move(*made)), nb::rv_policy::take_ownership);
}

PyCommunicator* shrink(PyCommunicator& self, const std::vector<Rank>& excluded,
                       const Config* config) {
  std::shared_ptr<Communicator> c = self.get();
  std::optional<Config> settings;
  if (config != nullptr) settings = *config;
  return adopt(run_interruptibly<CommunicatorPtr>(
      [=] { return c->shrink(excluded, settings ? &*settings : nullptr); }, aborting(c)));
}

UniqueId grow_id(PyCommunicator& self) {
  Result<UniqueId> id = self.get()->grow_id();
  if (!id) throw_status(id.status());
  return *id;
}

PyCommunicator* grow(PyCommunicator& self, uint32_t ranks, const UniqueId* id,
                     std::optional<Rank> rank, const Config* config) {
  std::shared_ptr<Communicator> c = self.get();
  if (rank) throw nb::value_error("grow: old ranks keep theirs; a new one enters with init()");
  std::optional<Config> settings;
  std::optional<UniqueId> entrance;
  if (config != nullptr) settings = *config;
  if (id != nullptr) entrance = *id;
  return adopt(run_interruptibly<CommunicatorPtr>(
      [=] {
        return c->grow(ranks, entrance ? &*entrance : nullptr, settings ? &*settings : nullptr);
      },
      aborting(c)));
}

std::pair<uint64_t, std::vector<Rank>> agree(PyCommunicator& self, uint64_t flags, double timeout) {
  std::shared_ptr<Communicator> c = self.get();
  const std::chrono::nanoseconds patience(static_cast<int64_t>(timeout * 1e9));
  using Agreement = Communicator::Agreement;
  Result<Agreement> agreed =
      run_interruptibly<Agreement>([=] { return c->agree(flags, patience); });
  if (!agreed) throw_status(agreed.status());
  return {agreed->flags, agreed->failed};
}

void bind_life_cycle(CommunicatorClass& c) {
  c.def_static("init", &init, "nranks"_a, "rank"_a, "unique_id"_a, "config"_a = nb::none(),
               "Joins rank `rank` of `nranks`; blocks until all have joined.");
  c.def_static("from_environment", &from_environment,
               "Rank, size and rendezvous from the launcher: python -m tutti.launch, tutti run, "
               "torchrun, mpirun, srun; a lone process is rank 0 of 1.");
  c.def_static("init_all", &init_all, "nranks"_a, "config"_a = nb::none(),
               nb::sig("def init_all(nranks: int, config: Config | None = None) -> "
                       "list[Communicator]"),
               "nranks communicators of this process, connected; one for each thread to use.");
  c.def_prop_ro("rank", [](PyCommunicator& s) { return s.get()->rank(); });
  c.def_prop_ro("nranks", [](PyCommunicator& s) { return s.get()->ranks(); });
  c.def_prop_ro(
      "ranks", [](PyCommunicator& s) { return s.get()->ranks(); }, "nranks");
  c.def_prop_ro("is_valid", &PyCommunicator::valid, "False after destroy().");
  c.def("finalize", &PyCommunicator::finalize, "Waits for outstanding work and says goodbye.");
  c.def("destroy", &PyCommunicator::destroy, "finalize(), then frees everything.");
  c.def("abort", &PyCommunicator::abort, "reason"_a = "the program aborted it",
        "From any thread: ends the running operation here and on all ranks.");
  c.def(
      "revoke",
      [](PyCommunicator& s, const std::string& reason) {
        std::shared_ptr<Communicator> comm = s.get();
        nb::gil_scoped_release without_gil;
        comm->revoke(reason);
      },
      "reason"_a = "revoke() was called",
      "From any thread: ends the running operation here and on every rank that can be reached. "
      "Then only failed(), agree(), shrink() and destroy() go on.");
  c.def(
      "failed", [](PyCommunicator& s) { return s.get()->failed(); },
      "Ranks that this rank knows to have died or left.");
  c.def("agree", &agree, "flags"_a = ~uint64_t{0}, "timeout"_a = 30.0,
        "(flags, failed): the AND of the survivors' flags and the union of the failed ranks that "
        "they know, the same on each.");
  c.def("split", &split, "color"_a.none() = nb::none(), "key"_a = 0, "config"_a = nb::none(),
        nb::sig("def split(self, color: int | None = None, key: int = 0, config: Config | None = "
                "None) -> Communicator | None"),
        "Collective: ranks of the same color form a communicator, ordered by key. None opts out.");
  c.def(
      "shrink", &shrink, "exclude_ranks"_a, "config"_a = nb::none(),
      "Called by every rank that is not excluded, with the same set: a communicator without them.");
  c.def("get_unique_id", &grow_id, "The id under which new ranks enter: see grow().");
  c.def("grow", &grow, "nranks"_a, "unique_id"_a = nb::none(), "rank"_a = nb::none(),
        "config"_a = nb::none(),
        "Collective with Communicator.init() of the new ranks: a communicator of nranks ranks. The "
        "rank that called get_unique_id() passes the id.");
  c.def(
      "get_async_error",
      [](PyCommunicator& s) -> nb::object {
        const Status status = s.get()->error();
        return status.ok() ? nb::none() : make_exception(status, s.get()->rank());
      },
      nb::sig("def get_async_error(self) -> tutti._errors.TuttiError | None"),
      "The first cause that broke the communicator, or None.");
  c.def(
      "on_late",
      [](PyCommunicator& s, nb::callable callback) {
        // Copies of the function come and go without the GIL: the object is shared, and never
        // freed (a communicator has one).
        auto* kept = new nb::callable(std::move(callback));
        s.get()->on_late([kept](const std::string& text) {
          nb::gil_scoped_acquire gil;
          try {
            (*kept)(text);
          } catch (nb::python_error& e) {
            e.discard_as_unraisable("tutti on_late callback");
          }
        });
      },
      "callback"_a,
      nb::sig("def on_late(self, callback: collections.abc.Callable[[str], object]) -> None"),
      "Calls back, once per operation, when one is later than Config.late_after.");
  c.def(
      "explain",
      [](PyCommunicator& s, const std::string& collective, size_t count, const std::string& dtype,
         Rank root) {
        const std::optional<Collective> which = parse_collective(collective);
        const std::optional<DType> type = parse_dtype(dtype);
        if (!which) throw_value_error({"explain", "collective"}, "is unknown: " + collective);
        if (!type) throw_value_error({"explain", "dtype"}, "is unknown: " + dtype);
        return s.get()->explain(*which, count, *type, root);
      },
      "collective"_a, "count"_a, "dtype"_a = "float32", "root"_a = 0,
      "How a call would run: algorithm, transport, rounds.");
  c.def(
      "register_buffer",
      [](PyCommunicator& s, nb::handle buffer) {
        s.get();
        RegisteredBuffer made{MemoryView(buffer, false, {"register_buffer", "buffer"}), {}};
        if (made.view.on_device()) made.array = nb::borrow(buffer);
        return made;
      },
      "buffer"_a, nb::sig("def register_buffer(self, buffer: " TUTTI_ARRAY ") -> Buffer"),
      "Looks at an array once. The result stands for it in calls and saves a microsecond each.");
  c.def(
      "create_pre_mul_sum",
      [](PyCommunicator& s, double scalar, nb::handle) {
        s.get();
        return PreMulSum{scalar};
      },
      "scalar"_a, "datatype"_a.none() = nb::none(),
      nb::sig("def create_pre_mul_sum(self, scalar: float, datatype: object = None) -> PreMulSum"),
      "tutti.premul_sum(scalar) under nccl4py's name; the type is that of the call.");
  c.def(
      "register_window",
      [](PyCommunicator& s, nb::handle buffer, nb::handle) {
        RegisteredWindow window;
        Prepared p = prepare_register_window(s.place("register_window"), buffer, &window);
        window.communicator = s.get();
        s.run(std::move(p));
        return window;
      },
      "buffer"_a, "flags"_a.none() = nb::none(),
      nb::sig("def register_window(self, buffer: " TUTTI_ARRAY ", flags: int | None = None) -> "
              "Window"),
      "Collective: every rank offers a writable array, whose sizes may differ, for put_signal() of "
      "the others. flags, NCCL's, have no effect. Inside a group the window is there at its end.");
  c.def(
      "__enter__", [](nb::handle self) { return nb::borrow(self); },
      nb::sig("def __enter__(self) -> Communicator"));
  c.def(
      "__exit__",
      [](PyCommunicator& s, nb::handle type, nb::handle, nb::handle) {
        if (!type.is_none() && s.valid()) s.get()->abort("the program left by an exception");
        s.destroy();
      },
      "type"_a.none(), "value"_a.none(), "traceback"_a.none(),
      nb::sig("def __exit__(self, type: object, value: object, traceback: object) -> None"));
  c.def("__repr__", [](PyCommunicator& s) {
    if (!s.valid()) return std::string("<tutti.Communicator, destroyed>");
    return "<tutti.Communicator rank " + std::to_string(s.get()->rank()) + " of " +
           std::to_string(s.get()->ranks()) + ">";
  });
}

UniqueId id_from_bytes(const char* call, const nb::bytes& data) {
  UniqueId id;
  if (data.size() != id.bytes.size())
    throw_value_error({call, "data"}, "has " + std::to_string(data.size()) + " bytes, not 128");
  std::memcpy(id.bytes.data(), data.c_str(), id.bytes.size());
  return id;
}

void bind_values(nb::module_& m) {
  nb::enum_<ReduceOp>(m, "ReduceOp", "Reduction operators, in NCCL's numbering.")
      .value("SUM", ReduceOp::sum)
      .value("PROD", ReduceOp::prod)
      .value("MAX", ReduceOp::max)
      .value("MIN", ReduceOp::min)
      .value("AVG", ReduceOp::avg);
  nb::class_<PreMulSum>(m, "PreMulSum", "Sum of every rank's input times that rank's factor.")
      .def(nb::init<double>(), "factor"_a)
      .def_ro("factor", &PreMulSum::factor);

  nb::class_<UniqueId>(
      m, "UniqueId",
      "128 bytes that let ranks find each other. Holds the job's secret: do not log.")
      .def_static("create",
                  [] {
                    Result<UniqueId> id = UniqueId::create();
                    if (!id) throw_status(id.status());
                    return *id;
                  })
      .def_static(
          "from_bytes", [](nb::bytes data) { return id_from_bytes("UniqueId.from_bytes", data); },
          "data"_a)
      .def_prop_ro("as_bytes",
                   [](const UniqueId& id) { return nb::bytes(id.bytes.data(), id.bytes.size()); })
      .def("__bytes__",
           [](const UniqueId& id) { return nb::bytes(id.bytes.data(), id.bytes.size()); })
      .def(
          "__eq__",
          [](const UniqueId& a, nb::handle b) {
            return nb::isinstance<UniqueId>(b) && a == nb::cast<const UniqueId&>(b);
          },
          nb::arg().none(), nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__",
           [](const UniqueId& id) { return nb::hash(nb::bytes(id.bytes.data(), id.bytes.size())); })
      .def("__repr__", [](const UniqueId& id) { return "<tutti.UniqueId " + id.to_string() + ">"; })
      .def("__getstate__",
           [](const UniqueId& id) { return nb::bytes(id.bytes.data(), id.bytes.size()); })
      .def("__setstate__", [](UniqueId& self, nb::bytes state) {
        new (&self) UniqueId(id_from_bytes("UniqueId.__setstate__", state));
      });

  nb::class_<Config>(m, "Config", "Settings of a communicator; see include/tutti/config.h.")
      .def("__init__", [](Config* self) { new (self) Config(); })
      .def_static("from_environment", [] { return config_or_environment(nullptr); })
      .def_rw("transports", &Config::transports)
      .def_rw("socket_interface", &Config::socket_interface)
      .def_rw("socket_family", &Config::socket_family)
      .def_rw("socket_connections", &Config::socket_connections)
      .def_rw("host_id", &Config::host_id)
      .def_rw("topology", &Config::topology)
      .def_rw("gpu", &Config::gpu)
      .def_rw("switches", &Config::switches)
      .def_rw("process_vm", &Config::process_vm)
      .def_rw("process_vm_bytes", &Config::process_vm_bytes)
      .def_rw("init_timeout", &Config::init_timeout)
      .def_rw("late_after", &Config::late_after)
      .def_rw("timeout", &Config::timeout)
      .def_rw("tune", &Config::tune)
      .def_rw("profile", &Config::profile)
      .def_rw("feedback", &Config::feedback)
      .def_rw("deterministic", &Config::deterministic)
      .def_rw("slot_bytes", &Config::slot_bytes)
      .def_rw("spin", &Config::spin)
      .def_rw("fault", &Config::fault)
      .def_rw("multi_rank_gpu", &Config::multi_rank_gpu)
      .def_rw("gpu_blocks", &Config::gpu_blocks)
      .def_rw("gpu_shots", &Config::gpu_shots)
      .def_rw("gpu_copy_engine_bytes", &Config::gpu_copy_engine_bytes)
      .def_rw("debug", &Config::debug)
      .def_rw("debug_file", &Config::debug_file)
      .def_static("unknown_variables", &Config::unknown_variables,
                  "A sentence for each TUTTI_* variable that nothing reads.");

  nb::class_<RegisteredBuffer>(m, "Buffer", "An array that register_buffer() has looked at.")
      .def("close", [](RegisteredBuffer& b) { b = RegisteredBuffer(); })
      .def_prop_ro("is_valid", [](RegisteredBuffer& b) { return !b.view.element().name.empty(); })
      .def_prop_ro("size",
                   [](RegisteredBuffer& b) { return b.view.items() * b.view.element().bytes(); });
  RegisteredBuffer::type = reinterpret_cast<PyTypeObject*>(nb::type<RegisteredBuffer>().ptr());

  nb::class_<RegisteredWindow>(m, "Window",
                               "Memory that every rank offers the others; keeps this rank's alive.")
      .def("close", &RegisteredWindow::close,
           "This rank offers it no longer. Local: peers must not put into it any more.")
      .def_prop_ro("is_valid", &RegisteredWindow::valid)
      .def_prop_ro(
          "size",
          [](const RegisteredWindow& w) { return w.view.items() * w.view.element().bytes(); },
          "Bytes of this rank's memory.")
      .def(
          "size_of", [](const RegisteredWindow& w, Rank rank) { return w.window->bytes(rank); },
          "rank"_a, "Bytes that `rank` offers.")
      .def_prop_ro("user_ptr", [](const RegisteredWindow& w) {
        return reinterpret_cast<uintptr_t>(w.view.data());
      });
  nb::class_<WaitSignalDesc>(m, "WaitSignalDesc", "Signals of a peer to wait for.")
      .def(
          "__init__",
          [](WaitSignalDesc* self, int64_t peer, int64_t op_count, int64_t index, int64_t context) {
            new (self) WaitSignalDesc{peer, op_count, index, context};
          },
          "peer"_a, "op_count"_a = 1, "signal_index"_a = 0, "context"_a = 0)
      .def_rw("peer", &WaitSignalDesc::peer)
      .def_rw("op_count", &WaitSignalDesc::op_count)
      .def_rw("signal_index", &WaitSignalDesc::signal_index)
      .def_rw("context", &WaitSignalDesc::context);

  nb::class_<SharedMemory>(
      m, "SharedMemory", nb::type_slots(shared_memory_slots),
      "Zero-filled memory that the ranks of a host reach directly, as a buffer. "
      "Freed with its last user.")
      .def(nb::init<size_t>(), "nbytes"_a)
      .def("__len__", [](const SharedMemory& s) { return s.bytes; });

  nb::class_<PyWork>(m, "Work", "Handle of an asynchronous operation.")
      .def("done", &PyWork::done)
      .def("wait", &PyWork::wait, "timeout"_a = nb::none(), nb::kw_only(),
           nb::arg("stream").none() = nb::none(),
           nb::sig("def wait(self, timeout: float | None = None, *, stream: tutti._typing.Stream | "
                   "None = None) -> None"),
           "Blocks until it is done and throws its error; TimeoutError after `timeout` seconds. "
           "With `stream`, on device arrays: what the stream gets from now on waits instead.");

  nb::class_<Group>(m, "Group")
      .def(nb::init<>())
      .def(
          "__enter__",
          [](nb::handle self) {
            nb::cast<Group&>(self).enter();
            return nb::borrow(self);
          },
          nb::sig("def __enter__(self) -> Group"))
      .def(
          "__exit__",
          [](Group& g, nb::handle type, nb::handle, nb::handle) { g.leave(!type.is_none()); },
          "type"_a.none(), "value"_a.none(), "traceback"_a.none(),
          nb::sig("def __exit__(self, type: object, value: object, traceback: object) -> None"));
}

}  // namespace
}  // namespace tutti::python

NB_MODULE(_core, m) {
  using namespace tutti::python;
  m.doc() = "The library behind the package tutti.";
  nanobind::set_leak_warnings(false);
  bind_values(m);
  CommunicatorClass communicator(m, "Communicator", nb::is_weak_referenceable(),
                                 "A group of ranks and the collectives among them.");
  bind_life_cycle(communicator);
  bind_collectives<false>(communicator);
  bind_collectives<true>(communicator);
  m.def("version", [] { return std::string(tutti::version()); });
  m.def(
      "close_all_resources",
      [] {
        for (PyCommunicator* c : std::vector<PyCommunicator*>(PyCommunicator::live())) c->abandon();
      },
      "Destroys every communicator of this process; aborts those with operations outstanding.");
}
