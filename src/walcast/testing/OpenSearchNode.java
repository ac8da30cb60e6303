import java.lang.reflect.Constructor;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;

/**
 * A node of OpenSearch 2 (Java 17) or 3 (Java 21) from plain jars: OpenSearchNode HOME KEY=VALUE...
 * SIGTERM stops it.
 */
public class OpenSearchNode {
    private static final String[] PLUGINS = {
        "org.opensearch.transport.Netty4%sPlugin", "org.opensearch.index.reindex.Reindex%sPlugin",
        "org.opensearch.analysis.common.CommonAnalysis%sPlugin", "org.opensearch.painless.Painless%sPlugin",
    };

    public static void main(String[] arguments) throws Exception {
        Path home = Paths.get(arguments[0]).toAbsolutePath();
        Path config = Files.createDirectories(home.resolve("config"));
        Map<String, String> given = new HashMap<>(Map.of("path.home", home.toString()));
        for (int i = 1; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            given.put(pair[0], pair[1]);
        }
        Class<?> settings = Class.forName("org.opensearch.common.settings.Settings");
        Class<?> environment = Class.forName("org.opensearch.env.Environment");
        Supplier<String> name = () -> "node";
        Object prepared = Class.forName("org.opensearch.node.InternalSettingsPreparer")
            .getMethod("prepareEnvironment", settings, Map.class, Path.class, Supplier.class)
            .invoke(null, settings.getField("EMPTY").get(null), given, config, name);
        Class<?> log = Class.forName("org.opensearch.common.logging.LogConfigurator");
        log.getMethod("setNodeName", String.class).invoke(null, "node");
        log.getMethod("configureWithoutConfig", settings)
            .invoke(null, environment.getMethod("settings").invoke(prepared));
        Constructor<?> constructor = Class.forName("org.opensearch.node.Node")
            .getDeclaredConstructor(environment, Collection.class, boolean.class);
        constructor.setAccessible(true);
        AutoCloseable node = (AutoCloseable) constructor.newInstance(prepared, plugins(), false);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
        node.getClass().getMethod("start").invoke(node);
        Thread.currentThread().join();
    }

    /** Those on the class path; version 3 wants each with its description. */
    private static List<Object> plugins() throws Exception {
        Class<?> version = Class.forName("org.opensearch.Version");
        Object current = version.getField("CURRENT").get(null);
        boolean described = Integer.parseInt(current.toString().split("\\.")[0]) >= 3;
        List<Object> found = new ArrayList<>();
        for (String pattern : PLUGINS) {
            Class<?> plugin;
            try {
                plugin = Class.forName(String.format(pattern, described ? "Module" : ""));
            } catch (ClassNotFoundException absent) {
                continue;
            }
            String name = plugin.getName();
            found.add(!described ? plugin : Class.forName("org.opensearch.plugins.PluginInfo")
                .getConstructor(String.class, String.class, String.class, version, String.class, String.class,
                    String.class, List.class, boolean.class)
                .newInstance(name, "on the class path", "1", current, "17", name, null, List.of(), false));
        }
        return found;
    }
}
