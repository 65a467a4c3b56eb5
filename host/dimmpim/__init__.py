"""Open RTL of a DIMM-PIM for LLM decode attention, its simulators and its host, as a Python package.

============================== ====================================================================================
topic                          names
============================== ====================================================================================
ranks with PIM                 :func:`presets`, :func:`preset`, :class:`Preset`, :class:`PimRankParams`, \
:class:`AttentionShape`
models                         :func:`models`, :func:`model`, :class:`ModelShape`
time of attention on ranks     :func:`attention_time`, :class:`AttentionTime`
attention on a backend         :func:`attention`, :class:`AttentionResult`, :func:`synthetic_qkv`
DPA programs                   :func:`run_program`, :class:`ProgramResult`, :func:`attention_program`, \
:func:`assemble`, :func:`disassemble`, :class:`Fault`
serving                        :func:`serve`, :class:`ServeResult`, :func:`compare`, :class:`Comparison`, \
:func:`workload`, :class:`Workload`, :func:`systems`, :class:`Node`
errors                         :class:`PimError` and its kinds
============================== ====================================================================================

A name is loaded when it is first used, so that ``import dimmpim`` is quick.

Examples
--------
>>> import dimmpim
>>> time = dimmpim.attention_time("Llama-3.1-8B", tokens=8192, ranks=8)
>>> time.layer_clocks > 0
True
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
