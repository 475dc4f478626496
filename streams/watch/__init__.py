"""Who watches: monitor, sentinel, canary watcher, evaluator, and whom they tell. Next: `sentinel.py`."""
