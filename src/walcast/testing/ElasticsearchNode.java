import java.lang.reflect.Method;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.function.Supplier;

/**
 * A node of Elasticsearch 8.19 (Java 17) or 9 (Java 21) from plain jars: ElasticsearchNode HOME KEY=VALUE...
 * HOME/modules/transport-netty4 holds Netty and its descriptor. SIGTERM stops it.
 */
public class ElasticsearchNode {
    public static void main(String[] arguments) throws Exception {
        Path home = Paths.get(arguments[0]).toAbsolutePath();
        Path config = Files.createDirectories(home.resolve("config"));
        Files.createDirectories(home.resolve("plugins"));
        Map<String, String> given = new HashMap<>(Map.of("path.home", home.toString()));
        for (int i = 1; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            given.put(pair[0], pair[1]);
        }
        Class<?> settings = Class.forName("org.elasticsearch.common.settings.Settings");
        Class<?> environment = Class.forName("org.elasticsearch.env.Environment");
        Class<?> log = Class.forName("org.elasticsearch.common.logging.LogConfigurator");
        log.getMethod("configureESLogging").invoke(null);
        Supplier<String> name = () -> "node";
        Object prepared = Class.forName("org.elasticsearch.node.InternalSettingsPreparer")
            .getMethod("prepareEnvironment", settings, Map.class, Path.class, Supplier.class)
            .invoke(null, settings.getField("EMPTY").get(null), given, config, name);
        log.getMethod("setNodeName", String.class).invoke(null, "node");
        log.getMethod("configureWithoutConfig", settings)
            .invoke(null, environment.getMethod("settings").invoke(prepared));
        Class<?> loaders = Class.forName("org.elasticsearch.plugins.PluginsLoader");
        Object loader = loaders.getMethod("createPluginsLoader", Set.class, Set.class, Map.class, boolean.class)
            .invoke(null, modules(loaders, home.resolve("modules")), Set.of(), Map.of(), false);
        AutoCloseable node = (AutoCloseable) Class.forName("org.elasticsearch.node.Node")
            .getConstructor(environment, loaders).newInstance(prepared, loader);
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

    private static Object modules(Class<?> loaders, Path folder) throws Exception {
        try {
            return loaders.getMethod("loadModulesBundles", Path.class).invoke(null, folder);
        } catch (NoSuchMethodException newer) {
            Method method = loaders.getMethod("loadModulesBundles", Path.class, boolean.class);
            return method.invoke(null, folder, false);
        }
    }
}
