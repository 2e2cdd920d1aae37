import org.apache.flink.table.functions.ScalarFunction;

/** The time in nanoseconds, taken for each row: what the latency of PyFlink is told by. */
public class Nano extends ScalarFunction {
    public Long eval(Long row) {
        return System.nanoTime();
    }

    @Override
    public boolean isDeterministic() {
        return false;
    }
}
