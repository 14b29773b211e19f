"""Layout, stream and back ends, the job with its tasks and journal, and who executes them."""
