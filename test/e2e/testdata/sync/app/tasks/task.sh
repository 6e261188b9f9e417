echo first >> /tmp/ran
