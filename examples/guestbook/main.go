// Guestbook is a web service with its entries in PostgreSQL: POST / with name=... adds
// one, GET / shows them all.
package main

import (
	"database/sql"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	_ "github.com/lib/pq"
)

// version is set when the program is built.
var version = "unknown"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "healthy" {
		healthy()
		return
	}
	db, err := sql.Open("postgres", "sslmode=disable connect_timeout=5") // the rest is in PGHOST and its like
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		if err := table(db); err != nil {
			log.Fatal(err)
		}
	}()
	http.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, version) })
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if err := serve(db, w, r); err != nil {
			log.Print(err)
			http.Error(w, "the database does not answer", http.StatusServiceUnavailable)
		}
	})
	log.Fatal(http.ListenAndServe(":8080", nil))
}

// table makes the table, as soon as the database answers.
func table(db *sql.DB) (err error) {
	for range [60]int{} {
		if _, err = db.Exec("CREATE TABLE IF NOT EXISTS entries (id serial PRIMARY KEY, name text NOT NULL)"); err == nil {
			return nil
		}
		time.Sleep(time.Second)
	}
	return err
}

func serve(db *sql.DB, w http.ResponseWriter, r *http.Request) error {
	if name := strings.TrimSpace(r.FormValue("name")); r.Method == http.MethodPost && name != "" {
		if _, err := db.ExecContext(r.Context(), "INSERT INTO entries (name) VALUES ($1)", name); err != nil {
			return err
		}
	}
	rows, err := db.QueryContext(r.Context(), "SELECT id, name FROM entries ORDER BY id")
	if err != nil {
		return err
	}
	defer rows.Close()
	var page strings.Builder
	for rows.Next() {
		var id int
		var name string
		if err := rows.Scan(&id, &name); err != nil {
			return err
		}
		fmt.Fprintf(&page, "%d %s\n", id, name)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err = fmt.Fprint(w, page.String())
	return err
}

// healthy is the image's health check: there is no curl in it.
func healthy() {
	resp, err := http.Get("http://127.0.0.1:8080/version")
	if err != nil || resp.StatusCode != http.StatusOK {
		log.Fatal("not healthy: ", err)
	}
}
