PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

MATRIX ?= workflow/matrices/digits.yaml
PROFILE ?= laptop
SETTINGS ?= workflow/audits/usual.yaml
DATA_DIR ?= data
LIMIT ?= 3600

.PHONY: help demo test test-fast test-long test-nightly lint benchmark matrix homework lecture lecture-rates arms-race gpu audit clean

help:
	@echo "make demo       install, then BadNets on handwritten digits against four defenses, a report and a table"
	@echo "make test-fast  install, then the tests that train nothing and start no program (about a minute)"
	@echo "make test       the linter and all tests but the long ones (some four minutes on two cores)"
	@echo "make test-long  the tests that take minutes: every flag, full disks, bombs, the pretend GPU"
	@echo "make test-nightly  105,000 made-up mask files, logs and triggers"
	@echo "make matrix     attacks against defenses: MATRIX=workflow/matrices/digits.yaml, and PROFILE=laptop,"
	@echo "                workstation (a fast GPU, three heavy steps at once) or slurm"
	@echo "make audit      is a model backdoored, and what repairs it: CHECKPOINT=model.th IMAGES=folder of clean images;"
	@echo "                for weights of another program also MEAN=imagenet STD=imagenet CHANNELS=bgr CLASSES=names.txt"
	@echo "make homework   the homework's attacks and ANP at full width; needs a GPU"
	@echo "make lecture    the lecture's table of ten attacks and four defenses: DATA_DIR=data; resumes"
	@echo "make lecture-rates  ABL for isolation rates of 1 to 20 % and 10, 50 and 70 % poisoned: DATA_DIR=data; resumes"
	@echo "make arms-race  the cells that docs/arms-race.md lacks, and the page with them: DATA_DIR=data; resumes"
	@echo "make gpu        the homework and further defenses side by side on one GPU, as far as LIMIT=3600"
	@echo "                seconds allow: DATA_DIR=data; called again, it goes on"
	@echo "make benchmark  the figures of benchmarks/README.md"
	@echo "make clean      remove the environment and caches, never a run"

# A fifth of the non-target digits, not augmented: with less, whether 20 short epochs learn the corner is up to the seed.
# FRR 2 %, since the 71 digits that calibrate STRIP have no quantile at 1 %; a larger part of them for ANP, since a tenth
# of 1,437 is all that the defender has.
demo: $(VENV)/ready
	$(PY) train_backdoor.py --dataset digits --width 16 --batch-size 32 --epochs 20 --milestones 15 18 \
		--crop-padding 0 --no-flip --poison-rate 0.2 --output-dir output/demo --overwrite
	$(PY) generate_mask.py --checkpoint output/demo/model_last.th --dataset digits --val-frac 0.05 --nb-iter 100 \
		--print-every 50 --crop-padding 0 --no-flip --overwrite
	$(PY) prune_network.py --mask-file output/demo/anp/mask_values.txt --val-frac 0.05 --overwrite
	$(PY) -m defenses.strip --checkpoint output/demo/model_last.th --dataset digits --overlays 50 --frr 0.02 --overwrite
	$(PY) -m defenses.fine_prune --checkpoint output/demo/model_last.th --dataset digits --val-frac 0.05 --crop-padding 0 \
		--no-flip --overwrite
	$(PY) -m defenses.neural_cleanse --checkpoint output/demo/model_last.th --dataset digits --seeds 1 --batches 2 \
		--budget 120 --overwrite
	$(PY) report.py output/demo --title "Demo on handwritten digits"
	$(PY) -m reporting.summary output/demo output/demo/anp/pruned output/demo/strip output/demo/fine-prune \
		output/demo/neural-cleanse

test-fast: $(VENV)/ready
	$(PY) -m pytest -n 2 --dist loadfile -m "not long and not slow"

test: $(VENV)/ready lint
	$(PY) -m pytest -n 2 --dist loadfile -m "not long"

test-nightly: $(VENV)/ready
	NIGHTLY=1 $(PY) -m pytest tests/reliability/test_properties.py

test-long: $(VENV)/ready
	$(PY) -m pytest -m long

lint: $(VENV)/ready
	$(PY) -m ruff check .

benchmark: $(VENV)/ready
	$(PY) -m benchmarks.all
	$(PY) -m benchmarks.training --width 64
	$(PY) -m benchmarks.scaling

# The same call resumes a stopped or killed one. The shell reads names from its environment, so that no name is executed.
export MATRIX PROFILE SETTINGS CHECKPOINT IMAGES OUTPUT CLASSES MEAN STD CHANNELS DATA_DIR LIMIT
matrix: $(VENV)/workflow-ready
	$(PY) -m workflow matrix "$$MATRIX" --profile "$$PROFILE"

audit: $(VENV)/workflow-ready
	$(PY) -m workflow audit "$$CHECKPOINT" "$$IMAGES" --settings "$$SETTINGS" --profile "$$PROFILE" --output-dir "$$OUTPUT" \
		$${CLASSES:+--classes "$$CLASSES"} $${MEAN:+--mean $$MEAN} $${STD:+--std $$STD} $${CHANNELS:+--channels "$$CHANNELS"}

homework: $(VENV)/workflow-ready
	$(MAKE) matrix MATRIX=workflow/matrices/homework.yaml

# The lecture's table beside what this machine measures: report.html and table.csv in output/lecture-abl.
lecture: $(VENV)/workflow-ready
	$(PY) -m workflow matrix workflow/matrices/lecture-abl.yaml --profile "$$PROFILE" --data-dir "$$DATA_DIR"
	$(PY) report.py output/lecture-abl --title "The lecture's table"

lecture-rates: $(VENV)/workflow-ready
	$(PY) -m workflow matrix workflow/matrices/lecture-rates.yaml --profile "$$PROFILE" --data-dir "$$DATA_DIR"
	$(PY) report.py output/lecture-rates --title "ABL over poisoning and isolation rates"

# The models are those of `make lecture`, and one of BadNets at 1 %. The page in docs/ is made of results/ alone.
arms-race: $(VENV)/workflow-ready
	$(PY) -m workflow matrix workflow/matrices/arms-race.yaml --profile "$$PROFILE" --data-dir "$$DATA_DIR"
	$(PY) -m reporting.arms_race output/lecture-abl results --page output/lecture-abl/arms-race.md

gpu: $(VENV)/ready
	$(PY) -m benchmarks.gpu --data-dir "$$DATA_DIR" --limit "$$LIMIT" --pack output/gpu.tar.xz

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/workflow-ready: requirements-workflow.txt $(VENV)/ready
	$(PY) -m pip install --quiet --requirement requirements-workflow.txt
	@touch $@

# The stamp is made last, so that an install that was cut off is done again.
$(VENV)/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or later is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): some 5 GB with PyTorch's usual build, a few minutes"
	$(PY) -m pip install --quiet --requirement requirements-dev.txt
	@touch $@
