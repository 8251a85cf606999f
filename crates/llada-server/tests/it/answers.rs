//! What answers hold.

use serde_json::{Value, json};

use crate::support::{server, story, story_request, with};

/// Puts the text of a streamed choice together.
fn streamed(events: &[(String, Value)], index: usize, text_of: fn(&Value) -> &Value) -> String {
    let chunks = events.iter().filter(|(kind, _)| kind.is_empty());
    let choices = chunks.flat_map(|(_, chunk)| chunk["choices"].as_array().unwrap());
    let own = choices.filter(|choice| choice["index"] == index);
    own.filter_map(|choice| text_of(choice).as_str()).collect()
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let server = server(vec![story()]).await;
    let request = with(
        story_request(40),
        json!({ "n": 2, "temperature": 0.8, "seed": 3 }),
    );
    let whole = server.ask("/v1/completions", request.clone()).await.ok();
    let stream = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let events = server
        .ask("/v1/completions", with(request, stream))
        .await
        .events();
    for index in 0..2 {
        let text = streamed(&events, index, |choice| &choice["text"]);
        assert_eq!(text, whole["choices"][index]["text"].as_str().unwrap());
        assert_eq!(whole["choices"][index]["dllm"]["seed"], 3 + index);
    }
    assert_ne!(whole["choices"][0]["text"], whole["choices"][1]["text"]);
    let last = &events.last().unwrap().1;
    assert_eq!(last["choices"], json!([]));
    assert_eq!(
        last["usage"]["completion_tokens"],
        whole["usage"]["completion_tokens"]
    );
    assert_eq!(last["usage"]["prompt_tokens"], 6);
}

#[tokio::test]
async fn a_chat_with_a_model_that_knows_no_turns_continues_the_text() {
    let server = server(vec![story()]).await;
    let messages = json!([
        { "role": "system", "content": "Once upon " },
        { "role": "user", "content": [{ "type": "text", "text": "a " }, { "type": "text", "text": "time" }] },
    ]);
    let chat =
        json!({ "messages": messages, "max_tokens": 20, "threshold": 0.6, "logprobs": true });
    let answer = server.ask("/v1/chat/completions", chat.clone()).await.ok();
    let text = server.ask("/v1/completions", story_request(20)).await.ok();
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(
        content,
        text["choices"][0]["text"].as_str().unwrap().trim_start()
    );
    let logprobs = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(logprobs.len(), 20);
    assert!(
        logprobs
            .iter()
            .all(|token| token["logprob"].as_f64().unwrap() <= 0.0)
    );
    let events = server
        .ask(
            "/v1/chat/completions",
            with(chat, json!({ "stream": true })),
        )
        .await;
    let events = events.events();
    let said = streamed(&events, 0, |choice| &choice["delta"]["content"]);
    assert_eq!(said, content);
    assert_eq!(
        events.last().unwrap().1["choices"][0]["finish_reason"],
        "length"
    );
}

#[tokio::test]
async fn drafts_lead_to_the_text_and_never_hold_a_mask_at_the_end_of_a_block() {
    let server = server(vec![story()]).await;
    let request = with(
        story_request(24),
        json!({ "stream": true, "stream_draft": true, "return_steps": true }),
    );
    let events = server.ask("/v1/completions", request).await.events();
    let mut places: Vec<Option<Value>> = vec![None; 64];
    let mut num_drafts = 0;
    for (kind, draft) in &events {
        if kind != "draft" {
            continue;
        }
        num_drafts += 1;
        let tokens = draft["tokens"].as_array().unwrap();
        assert_eq!(
            tokens.iter().filter(|token| token.is_null()).count(),
            draft["open"]
        );
        for (place, token) in (draft["start"].as_u64().unwrap() as usize..).zip(tokens) {
            places[place] = Some(token.clone()).filter(|token| !token.is_null());
        }
    }
    let end = &events.last().unwrap().1["choices"][0]["dllm"];
    assert_eq!(end["denoise_forwards"], num_drafts);
    let placed = end["placed"].as_array().unwrap();
    assert_eq!(placed.len(), 24);
    for (draft, placed) in places.iter().zip(placed) {
        let draft = draft.as_ref().unwrap();
        assert_eq!(draft["confidence"], placed["confidence"]);
        assert_eq!(draft["step"], placed["step"]);
    }
    let text: String = places
        .iter()
        .flatten()
        .take(24)
        .map(|t| t["text"].as_str().unwrap())
        .collect();
    let said = streamed(&events, 0, |choice| &choice["text"]);
    assert!(said.trim_start() == text.trim_start(), "{said} {text}");
}

#[tokio::test]
async fn a_stop_string_ends_the_text_before_itself() {
    let server = server(vec![story()]).await;
    let whole = server.ask("/v1/completions", story_request(40)).await.ok();
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let stop = &text[10..14];
    let request = with(story_request(40), json!({ "stop": stop }));
    let stopped = server.ask("/v1/completions", request).await.ok();
    let choice = &stopped["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["text"], text[..text.find(stop).unwrap()]);
}

#[tokio::test]
async fn several_prompts_are_answered_in_their_order() {
    let server = server(vec![story()]).await;
    let prompts = ["Once upon a time", "Lily had a"];
    let request = |prompt: Value| with(story_request(12), json!({ "prompt": prompt }));
    let together = server
        .ask("/v1/completions", request(json!(prompts)))
        .await
        .ok();
    for (index, prompt) in prompts.into_iter().enumerate() {
        let alone = server
            .ask("/v1/completions", request(json!(prompt)))
            .await
            .ok();
        assert_eq!(
            together["choices"][index]["text"],
            alone["choices"][0]["text"]
        );
    }
}

#[tokio::test]
async fn the_most_probable_tokens_are_told_in_three_ways() {
    let server = server(vec![story()]).await;
    let chat = json!({
        "messages": [{ "role": "user", "content": "Once upon a time" }], "max_tokens": 8,
        "logprobs": true, "top_logprobs": 3,
    });
    let chat = server.ask("/v1/chat/completions", chat).await.ok();
    let tokens = chat["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(tokens.len(), 8);
    let completion = with(
        story_request(8),
        json!({ "logprobs": 3, "threshold": 0.95 }),
    );
    let completion = server.ask("/v1/completions", completion).await.ok();
    let logprobs = &completion["choices"][0]["logprobs"];
    let generate = json!({
        "text": "Once upon a time", "sampling_params": { "max_new_tokens": 8 },
        "return_logprob": true, "top_logprobs_num": 3,
    });
    let generate = server.ask("/generate", generate).await.ok();
    for (place, token) in tokens.iter().enumerate() {
        let top = &token["top_logprobs"];
        assert_eq!(top.as_array().unwrap().len(), 3);
        assert_eq!(top[0]["token"], token["token"]);
        for other in top.as_array().unwrap() {
            let text = other["token"].as_str().unwrap();
            assert_eq!(logprobs["top_logprobs"][place][text], other["logprob"]);
        }
        let triple = &generate["meta_info"]["output_top_logprobs"][place][2];
        assert_eq!(triple[0], top[2]["logprob"]);
        assert_eq!(triple[2], top[2]["token"]);
    }
}

#[tokio::test]
async fn generate_speaks_as_sglang_does() {
    let server = server(vec![story()]).await;
    let params = json!({ "max_new_tokens": 16, "threshold": 0.6 });
    let request =
        json!({ "text": "Once upon a time", "sampling_params": params, "return_logprob": true });
    let whole = server.ask("/generate", request.clone()).await.ok();
    let completion = server.ask("/v1/completions", story_request(16)).await.ok();
    assert_eq!(whole["text"], completion["choices"][0]["text"]);
    assert_eq!(whole["output_ids"].as_array().unwrap().len(), 16);
    assert_eq!(whole["meta_info"]["finish_reason"]["type"], "length");
    assert_eq!(
        whole["meta_info"]["output_token_logprobs"]
            .as_array()
            .unwrap()
            .len(),
        16
    );
    let events = server
        .ask("/generate", with(request, json!({ "stream": true })))
        .await
        .events();
    assert!(events.len() > 2);
    assert_eq!(events.last().unwrap().1["text"], whole["text"]);
}

#[tokio::test]
async fn text_that_spells_a_special_token_stays_text() {
    let server = server(vec![story()]).await;
    let tokens = server
        .ask("/tokenize", json!({ "prompt": "a<|end_story|><|mask|>b" }))
        .await
        .ok();
    let tokens = tokens["tokens"].as_array().unwrap();
    for special in [2, 2048] {
        assert!(!tokens.contains(&json!(special)), "{tokens:?}");
    }
    let ids = json!({ "tokens": tokens[1..] });
    let text = server.ask("/detokenize", ids).await.ok();
    assert_eq!(
        text["prompt"].as_str().unwrap().trim_start(),
        "a<|end_story|><|mask|>b"
    );
}

#[tokio::test]
async fn a_text_may_fill_the_context_and_not_a_token_more() {
    let server = server(vec![story()]).await;
    let prompt: Vec<u32> = (0..500).map(|i| 100 + i).collect();
    let ask = |tokens: usize| json!({ "prompt": prompt, "max_tokens": tokens, "ignore_eos": true });
    for fits in [11, 12] {
        let answer = server.ask("/v1/completions", ask(fits)).await.ok();
        assert_eq!(answer["usage"]["completion_tokens"], fits);
    }
    let refused = server.ask("/v1/completions", ask(13)).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error"]["code"], "context_length_exceeded");
    // Without a number the text gets what is left.
    let request = json!({ "prompt": prompt, "ignore_eos": true });
    let answer = server.ask("/v1/completions", request).await.ok();
    assert_eq!(answer["usage"]["total_tokens"], 512);
}
