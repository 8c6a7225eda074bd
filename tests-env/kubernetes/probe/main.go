// The one program in the pods of the test cluster, static so that its image holds nothing else.
//
//	probe pause            waits for a signal: the pod sandbox
//	probe serve            HTTP on :8080; / says who answers, /fetch?url=U says what U answers from in here
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// A name that does not resolve or a Service without endpoints must not hold the caller up.
const fetchTimeout = 5 * time.Second

// Answers are a line of text; more than this is not one of ours.
const answerBytesMax = 64 << 10

func main() {
	signals, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	mode := ""
	if len(os.Args) == 2 {
		mode = os.Args[1]
	}
	switch mode {
	case "pause":
		<-signals.Done()
	case "serve":
		if err := serve(signals); err != nil {
			fmt.Fprintln(os.Stderr, "probe: serve on :8080:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: probe pause|serve")
		os.Exit(2)
	}
}

func serve(signals context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hello from %s\n", host)
	})
	mux.HandleFunc("/fetch", fetch)
	server := &http.Server{Addr: ":8080", Handler: mux}
	go func() {
		<-signals.Done()
		_ = server.Close()
	}()
	fmt.Println("listening on :8080 as", host)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}

func fetch(w http.ResponseWriter, r *http.Request) {
	client := http.Client{Timeout: fetchTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(r.URL.Query().Get("url"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(answer.Body, answerBytesMax))
}
