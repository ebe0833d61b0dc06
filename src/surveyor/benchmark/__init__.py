"""Benchmark of labels: do chosen labels bring a model further than random ones?"""

from surveyor.benchmark.benchmark import BENCHMARK, Benchmark, CheckedBenchmark
from surveyor.benchmark.parameters import BenchmarkParameters
from surveyor.benchmark.points import Point, learn_point

__all__ = ["BENCHMARK", "Benchmark", "BenchmarkParameters", "CheckedBenchmark", "Point", "learn_point"]
