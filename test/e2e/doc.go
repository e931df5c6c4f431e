// Package e2e drives the built binaries with real images and real services, as a
// person does: docker and hull on a private engine. There is nothing in it but
// tests.
package e2e
