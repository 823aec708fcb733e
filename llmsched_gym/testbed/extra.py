"""What is said where the packages of real servers are not installed."""

NEEDED = 'the testbed needs the extra: pip install "llmsched-gym[testbed]"'
