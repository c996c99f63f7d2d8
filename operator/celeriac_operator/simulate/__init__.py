"""What if: a load replayed through `decide`, and through KEDA's and the HPA's rules, in a world of queues, slots and pods."""
