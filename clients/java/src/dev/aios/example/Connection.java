package dev.aios.example;

import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.net.URI;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** One address, one token, and what every call has: a deadline, retries where they are safe, errors that can be read. */
final class Connection implements AutoCloseable {
  private static final long CALL_SECONDS = 30;
  private static final Metadata.Key<String> AUTHORIZATION = header("authorization");

  // Every method may be sent again when it was UNAVAILABLE: creations carry a request_id.
  private static final String SERVICE_CONFIG =
      """
      {"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.2s",
       "maxBackoff": "2s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}
      """;

  private final ManagedChannel channel;
  private final Channel authorized;

  Connection(String address, String token) {
    URI uri = URI.create(address);
    boolean secure = uri.getScheme().equals("https");
    int port = uri.getPort() >= 0 ? uri.getPort() : secure ? 443 : 80;
    ManagedChannelBuilder<?> builder = ManagedChannelBuilder.forAddress(uri.getHost(), port);
    if (!secure) {
      builder.usePlaintext();
    }
    channel = builder.defaultServiceConfig(new Gson().fromJson(SERVICE_CONFIG, Map.class)).enableRetry().build();
    authorized = ClientInterceptors.intercept(channel, new Usual("Bearer " + token));
  }

  /** What every stub is made with. */
  Channel channel() {
    return authorized;
  }

  @Override
  public void close() {
    channel.shutdownNow();
  }

  static Metadata.Key<String> header(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  /** What an error says for programs: its stable reason, and the request field that is wrong. */
  record Refusal(String code, String reason, String field) {
    static Refusal of(StatusRuntimeException error) throws InvalidProtocolBufferException {
      String reason = "";
      String field = "";
      com.google.rpc.Status status = StatusProto.fromThrowable(error);
      for (Any detail : status == null ? java.util.List.<Any>of() : status.getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          reason = detail.unpack(ErrorInfo.class).getReason();
        } else if (detail.is(BadRequest.class)) {
          BadRequest wrong = detail.unpack(BadRequest.class);
          field = wrong.getFieldViolationsCount() > 0 ? wrong.getFieldViolations(0).getField() : "";
        }
      }
      return new Refusal(error.getStatus().getCode().name(), reason, field);
    }
  }

  /** Puts the token on every call, and a deadline on a unary one that has none. */
  private record Usual(String authorization) implements ClientInterceptor {
    @Override
    public <A, B> ClientCall<A, B> interceptCall(MethodDescriptor<A, B> method, CallOptions options, Channel next) {
      boolean bare = method.getType() == MethodType.UNARY && options.getDeadline() == null;
      CallOptions used = bare ? options.withDeadlineAfter(CALL_SECONDS, TimeUnit.SECONDS) : options;
      return new SimpleForwardingClientCall<>(next.newCall(method, used)) {
        @Override
        public void start(Listener<B> listener, Metadata headers) {
          headers.put(AUTHORIZATION, authorization);
          super.start(listener, headers);
        }
      };
    }
  }
}
