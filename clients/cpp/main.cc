// The whole path: data, training, serving, a prediction and its trace.
//
//     AIOS_ADDRESS=http://127.0.0.1:8080 AIOS_TOKEN=... build/aios-client FOLDER NAME

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include <curl/curl.h>
#include <openssl/evp.h>

#include "aios/data/v1/data_service.grpc.pb.h"
#include "aios/identity/v1/identity_service.grpc.pb.h"
#include "aios/inference/v1/inference_service.grpc.pb.h"
#include "aios/telemetry/v1/trace_service.grpc.pb.h"
#include "aios/trainer/v1/trainer_service.grpc.pb.h"
#include "connection.h"
#include "grpc_service.grpc.pb.h"

namespace {

namespace fs = std::filesystem;
namespace data = aios::data::v1;
namespace identity = aios::identity::v1;
namespace serving = aios::inference::v1;
namespace telemetry = aios::telemetry::v1;
namespace trainer = aios::trainer::v1;
using namespace std::chrono_literals;
using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensors travel as little-endian bytes");

constexpr std::size_t kPixels = 28 * 28;
constexpr auto kPoll = 250ms;

std::string hex(std::span<const unsigned char> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::vector<unsigned char> random_bytes(std::size_t size) {
  static std::random_device device;
  std::vector<unsigned char> bytes(size);
  std::generate(bytes.begin(), bytes.end(), [] { return static_cast<unsigned char>(device()); });
  return bytes;
}

// The same UUID makes a repeated request safe.
std::string uuid() {
  auto bytes = random_bytes(16);
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  std::string text = hex(bytes);
  for (const std::size_t at : {20, 16, 12, 8}) text.insert(at, "-");
  return text;
}

std::string sha256(const std::string& content) {
  std::vector<unsigned char> digest(EVP_MAX_MD_SIZE);
  unsigned int size = 0;
  if (EVP_Digest(content.data(), content.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("no SHA-256 in this OpenSSL");
  }
  digest.resize(size);
  return hex(digest);
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

// Sends bytes with exactly these headers. Returns the HTTP status.
template <typename Headers>
long put(const std::string& url, const Headers& headers, const std::string& content) {
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
  curl_slist* lines = nullptr;
  for (const auto& [key, value] : headers) lines = curl_slist_append(lines, (key + ": " + value).c_str());
  for (const char* unwanted : {"Content-Type:", "Expect:"}) lines = curl_slist_append(lines, unwanted);
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_CUSTOMREQUEST, "PUT");
  curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(content.size()));
  curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, content.data());
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, lines);
  const CURLcode done = curl_easy_perform(curl.get());
  curl_slist_free_all(lines);
  if (done != CURLE_OK) throw std::runtime_error(std::string("the object store: ") + curl_easy_strerror(done));
  long status = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  return status;
}

// The first answer of `look` that is there.
template <typename Look>
auto eventually(std::chrono::seconds patience, const std::string& what, Look look) {
  const auto give_up = std::chrono::steady_clock::now() + patience;
  while (true) {
    if (auto found = look(); found.has_value()) return *found;
    if (std::chrono::steady_clock::now() > give_up) throw std::runtime_error(what + " is not there in time");
    std::this_thread::sleep_for(kPoll);
  }
}

// What the program does, one method a step.
class Walk {
 public:
  explicit Walk(const Connection& connection)
      : connection_(connection),
        data_(data::DataService::NewStub(connection.channel())),
        trainer_(trainer::TrainerService::NewStub(connection.channel())),
        serving_(serving::InferenceService::NewStub(connection.channel())),
        traces_(telemetry::TraceService::NewStub(connection.channel())),
        predictor_(inference::GRPCInferenceService::NewStub(connection.channel())) {}

  json walk(const fs::path& folder, const std::string& name) {
    const auto identity = identity::IdentityService::NewStub(connection_.channel());
    const auto caller =
        connection_.call(*identity, &identity::IdentityService::Stub::GetCaller, identity::GetCallerRequest());
    project_ = caller.project();
    json seen = {{"language", "cpp"}, {"subject", caller.subject()}, {"project", project_}};
    const std::string dataset = push(name, folder);
    seen["dataset"] = dataset;
    seen["refused"] = refused();
    seen.update(submit(name, dataset));
    seen.update(follow(seen["run"]));
    const std::string deployment = deploy(name, seen["modelVersion"]);
    seen["deployment"] = deployment;
    seen.update(predict(name, folder));
    seen["spans"] = spans(seen["traceId"]);
    seen["deadline"] = deadline();
    seen["cancelled"] = cancelled();
    serving::DeleteDeploymentRequest gone;
    gone.set_name(deployment);
    connection_.call(*serving_, &serving::InferenceService::Stub::DeleteDeployment, gone);
    return seen;
  }

 private:
  // Stores every file of a folder as the next version of a dataset.
  std::string push(const std::string& name, const fs::path& folder) {
    data::CreateDatasetVersionRequest version;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (!entry.is_regular_file()) continue;
      const std::string content = read_file(entry.path());
      auto* file = version.mutable_dataset_version()->add_files();
      file->set_path(fs::relative(entry.path(), folder).generic_string());
      file->set_sha256(sha256(content));
      file->set_size_bytes(static_cast<std::int64_t>(content.size()));
      upload(*file, content);
    }
    data::CreateDatasetRequest dataset;
    dataset.set_parent(project_);
    dataset.set_dataset_id(name);
    dataset.set_request_id(uuid());
    try {
      connection_.call(*data_, &data::DataService::Stub::CreateDataset, dataset);
    } catch (const Error& error) {
      if (error.code() != grpc::StatusCode::ALREADY_EXISTS) throw;
    }
    version.set_parent(project_ + "/datasets/" + name);
    version.mutable_dataset_version()->set_message("pushed from C++");
    version.set_request_id(uuid());
    return connection_.call(*data_, &data::DataService::Stub::CreateDatasetVersion, version).name();
  }

  // Sends one file's bytes straight to the object store, unless the project has them.
  void upload(const aios::common::v1::File& file, const std::string& content) {
    data::BeginUploadRequest begin;
    begin.set_parent(project_);
    begin.set_sha256(file.sha256());
    begin.set_size_bytes(file.size_bytes());
    const auto upload = connection_.call(*data_, &data::DataService::Stub::BeginUpload, begin);
    if (upload.exists()) return;
    const long status = put(upload.url(), upload.headers(), content);
    // 412: somebody else has just put the same content.
    if (status / 100 != 2 && status != 412) {
      throw std::runtime_error("the object store answered " + std::to_string(status) + " to " + file.path());
    }
    data::CompleteUploadRequest complete;
    complete.set_name(upload.name());
    connection_.call(*data_, &data::DataService::Stub::CompleteUpload, complete);
  }

  // What the platform says of a run that cannot be right.
  json refused() {
    try {
      trainer::CreateRunRequest request = creation();
      request.mutable_run()->mutable_spec()->set_recipe("no-such-recipe");
      connection_.call(*trainer_, &trainer::TrainerService::Stub::CreateRun, request);
    } catch (const Error& error) {
      return error.explain();
    }
    throw std::runtime_error("a run of no recipe was accepted");
  }

  // Sends a run twice with one request_id, as a client does that did not hear the first answer: it is one run.
  json submit(const std::string& name, const std::string& dataset) {
    trainer::CreateRunRequest request = creation();
    auto* spec = request.mutable_run()->mutable_spec();
    spec->set_recipe("image_classifier");
    spec->set_dataset(dataset.substr(project_.size() + 1));
    spec->set_model(name);
    spec->set_seed(7);
    auto& settings = *spec->mutable_hyperparameters()->mutable_fields();
    settings["epochs"].set_number_value(1);
    settings["batch_size"].set_number_value(16);
    const auto first = connection_.call(*trainer_, &trainer::TrainerService::Stub::CreateRun, request);
    const auto second = connection_.call(*trainer_, &trainer::TrainerService::Stub::CreateRun, request);
    return {{"run", first.name()}, {"replayed", first.name() == second.name()}};
  }

  trainer::CreateRunRequest creation() {
    trainer::CreateRunRequest request;
    request.set_parent(project_);
    request.set_request_id(uuid());
    return request;
  }

  // Reads the run and its points as they arrive, until it has ended.
  json follow(const std::string& run) {
    trainer::WatchMetricsRequest request;
    request.set_parent(run);
    const auto context = connection_.context();
    const auto stream = trainer_->WatchMetrics(context.get(), request);
    std::vector<std::string> states;
    std::string version;
    int points = 0;
    for (trainer::WatchMetricsResponse message; stream->Read(&message);) {
      const std::string state = trainer::Run::State_Name(message.run().state());
      points += message.points_size();
      version = message.run().model_version();
      if (states.empty() || states.back() != state) states.push_back(state);
      if (message.run().state() == trainer::Run::STATE_FAILED) {
        throw std::runtime_error(message.run().state_message());
      }
    }
    if (const grpc::Status status = stream->Finish(); !status.ok()) throw Error(status);
    return {{"states", states}, {"points", points}, {"modelVersion", version}};
  }

  // Serves a model version and waits until it answers.
  std::string deploy(const std::string& name, const std::string& version) {
    serving::CreateDeploymentRequest request;
    request.set_parent(project_);
    request.set_deployment_id(name);
    request.set_request_id(uuid());
    request.mutable_deployment()->mutable_spec()->set_model_version(version);
    const auto made = connection_.call(*serving_, &serving::InferenceService::Stub::CreateDeployment, request);
    serving::GetDeploymentRequest get;
    get.set_name(made.name());
    return eventually(120s, made.name(), [&]() -> std::optional<std::string> {
      const auto now = connection_.call(*serving_, &serving::InferenceService::Stub::GetDeployment, get);
      if (now.state() == serving::Deployment::STATE_DEGRADED) throw std::runtime_error(now.state_message());
      if (now.state() != serving::Deployment::STATE_READY) return std::nullopt;
      return now.name();
    });
  }

  // Asks for the first test image. Tensors travel as raw little-endian bytes; the trace's id is ours to choose.
  json predict(const std::string& name, const fs::path& folder) {
    const std::string trace = hex(random_bytes(16));
    auto context = connection_.context();
    context->AddMetadata("traceparent", "00-" + trace + "-" + hex(random_bytes(8)) + "-01");
    inference::ModelInferRequest request;
    request.set_model_name(name);
    auto* input = request.add_inputs();
    input->set_name("image");
    input->set_datatype("FP32");
    for (const std::int64_t size : {1, 1, 28, 28}) input->add_shape(size);
    request.add_raw_input_contents(first_image(folder / "test" / "images.npy"));
    const auto answer = connection_.call(*predictor_, &inference::GRPCInferenceService::Stub::ModelInfer, request,
                                         std::move(context));
    const std::string& raw = answer.raw_output_contents(0);
    std::vector<float> logits(raw.size() / sizeof(float));
    std::memcpy(logits.data(), raw.data(), logits.size() * sizeof(float));
    const auto best = std::max_element(logits.begin(), logits.end());
    return {{"label", std::distance(logits.begin(), best)}, {"traceId", trace}};
  }

  // The first image of a NumPy file, as the model takes it: FP32, 0 to 1.
  static std::string first_image(const fs::path& path) {
    const std::string file = read_file(path);
    std::uint16_t header = 0;
    std::memcpy(&header, file.data() + 8, sizeof(header));
    const auto pixels = std::span(file).subspan(10 + header, kPixels);
    std::vector<float> image(kPixels);
    std::transform(pixels.begin(), pixels.end(), image.begin(),
                   [](char value) { return static_cast<float>(static_cast<unsigned char>(value)) / 255.0F; });
    return {reinterpret_cast<const char*>(image.data()), image.size() * sizeof(float)};
  }

  // Spans arrive a moment after the answer: how many there are once the model's own is.
  int spans(const std::string& trace) {
    telemetry::GetTraceRequest get;
    get.set_name(project_ + "/traces/" + trace);
    return eventually(20s, get.name(), [&]() -> std::optional<int> {
      try {
        const auto found = connection_.call(*traces_, &telemetry::TraceService::Stub::GetTrace, get);
        const auto& all = found.spans();
        const bool whole =
            std::any_of(all.begin(), all.end(), [](const auto& span) { return span.service() == "triton"; });
        if (whole) return all.size();
      } catch (const Error& error) {
        if (error.code() != grpc::StatusCode::NOT_FOUND) throw;
      }
      return std::nullopt;
    });
  }

  // How a watch ends that may take half a second.
  std::string deadline() {
    const auto context = connection_.context();
    context->set_deadline(std::chrono::system_clock::now() + 500ms);
    return ended(*context);
  }

  // How a watch ends that nobody wants any more.
  std::string cancelled() {
    const auto context = connection_.context();
    const std::jthread canceller([&] {
      std::this_thread::sleep_for(100ms);
      context->TryCancel();
    });
    return ended(*context);
  }

  std::string ended(grpc::ClientContext& context) {
    trainer::WatchRunsRequest request;
    request.set_parent(project_);
    const auto stream = trainer_->WatchRuns(&context, request);
    for (trainer::WatchRunsResponse message; stream->Read(&message);) {
    }
    return name_of(stream->Finish().error_code());
  }

  const Connection& connection_;
  std::string project_;
  std::unique_ptr<data::DataService::Stub> data_;
  std::unique_ptr<trainer::TrainerService::Stub> trainer_;
  std::unique_ptr<serving::InferenceService::Stub> serving_;
  std::unique_ptr<telemetry::TraceService::Stub> traces_;
  std::unique_ptr<inference::GRPCInferenceService::Stub> predictor_;
};

std::string setting(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: aios-client FOLDER NAME\n";
    return 2;
  }
  try {
    const Connection connection(setting("AIOS_ADDRESS", "http://127.0.0.1:8080"), setting("AIOS_TOKEN", ""));
    std::cout << Walk(connection).walk(arguments[1], arguments[2]) << "\n";
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
