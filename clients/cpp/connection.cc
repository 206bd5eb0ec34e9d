#include "connection.h"

#include <map>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace {

// Every method may be sent again when it was UNAVAILABLE: creations carry a request_id.
constexpr char kServiceConfig[] = R"({"methodConfig": [{"name": [{}], "retryPolicy": {
  "maxAttempts": 4, "initialBackoff": "0.2s", "maxBackoff": "2s", "backoffMultiplier": 2,
  "retryableStatusCodes": ["UNAVAILABLE"]}}]})";

}  // namespace

Connection::Connection(const std::string& address, std::string token) : authorization_("Bearer " + std::move(token)) {
  const auto split = address.find("://");
  if (split == std::string::npos) throw std::invalid_argument("AIOS_ADDRESS must be http://HOST:PORT or https://HOST");
  const bool secure = address.substr(0, split) == "https";
  std::string target = address.substr(split + 3);
  if (const auto path = target.find('/'); path != std::string::npos) target.resize(path);
  if (target.find(':') == std::string::npos) target += secure ? ":443" : ":80";
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(kServiceConfig);
  const auto credentials =
      secure ? grpc::SslCredentials(grpc::SslCredentialsOptions()) : grpc::InsecureChannelCredentials();
  channel_ = grpc::CreateCustomChannel(target, credentials, arguments);
}

std::unique_ptr<grpc::ClientContext> Connection::context() const {
  auto context = std::make_unique<grpc::ClientContext>();
  context->AddMetadata("authorization", authorization_);
  return context;
}

nlohmann::json Error::explain() const {
  nlohmann::json said = {{"code", name_of(code())}, {"reason", ""}, {"field", ""}};
  google::rpc::Status status;
  status.ParseFromString(status_.error_details());
  for (const auto& detail : status.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest wrong;
    if (detail.UnpackTo(&info)) {
      said["reason"] = info.reason();
    } else if (detail.UnpackTo(&wrong) && wrong.field_violations_size() > 0) {
      said["field"] = wrong.field_violations(0).field();
    }
  }
  return said;
}

std::string name_of(grpc::StatusCode code) {
  static const std::map<grpc::StatusCode, std::string> names = {
      {grpc::StatusCode::OK, "OK"},
      {grpc::StatusCode::CANCELLED, "CANCELLED"},
      {grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT"},
      {grpc::StatusCode::DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"},
      {grpc::StatusCode::NOT_FOUND, "NOT_FOUND"},
      {grpc::StatusCode::ALREADY_EXISTS, "ALREADY_EXISTS"},
      {grpc::StatusCode::UNAUTHENTICATED, "UNAUTHENTICATED"},
      {grpc::StatusCode::PERMISSION_DENIED, "PERMISSION_DENIED"},
      {grpc::StatusCode::RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"},
      {grpc::StatusCode::UNAVAILABLE, "UNAVAILABLE"},
      {grpc::StatusCode::INTERNAL, "INTERNAL"},
  };
  const auto found = names.find(code);
  return found == names.end() ? "UNKNOWN" : found->second;
}
