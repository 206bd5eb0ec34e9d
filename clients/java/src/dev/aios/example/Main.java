package dev.aios.example;

import com.google.gson.Gson;
import java.nio.file.Path;

/**
 * The whole path: data, training, serving, a prediction and its trace.
 *
 * <pre>AIOS_ADDRESS=http://127.0.0.1:8080 AIOS_TOKEN=... build/aios-client FOLDER NAME</pre>
 */
final class Main {
  private Main() {}

  public static void main(String[] arguments) throws Exception {
    if (arguments.length != 2) {
      System.err.println("usage: aios-client FOLDER NAME");
      System.exit(2);
    }
    String address = System.getenv().getOrDefault("AIOS_ADDRESS", "http://127.0.0.1:8080");
    String token = System.getenv().getOrDefault("AIOS_TOKEN", "");
    try (Connection connection = new Connection(address, token)) {
      System.out.println(new Gson().toJson(new Walk(connection).walk(Path.of(arguments[0]), arguments[1])));
    }
  }
}
