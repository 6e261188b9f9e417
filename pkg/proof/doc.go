// Package proof decides whether what runs is what is on the disk: the chain of each image, and the
// Python libraries of all places. It only compares; others ask the places.
package proof
